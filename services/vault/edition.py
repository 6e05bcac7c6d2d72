"""A version that the ledger numbered, with everything that determines its bytes."""

from dataclasses import dataclass

from shared.errors import NotFound
from shared.formats.version import SegmentEntry, version_name
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.protocol.names import JobId
from shared.protocol.records import LineClose
from shared.store import layout


class NotPublishable(NotFound):
    """The ledger gave this version a number, but what it names cannot be published as it is."""


@dataclass(frozen=True)
class Edition:
    """A version that the ledger numbered, with everything that determines its bytes.

    `sequence` is that of the close; `chat_template` is the lineage's own, or None for the base's.
    """

    lineage: str
    version: int
    sequence: int
    close: LineClose
    job: JobId
    file_name: str
    chat_template: str | None
    segments: tuple[SegmentEntry, ...]

    @property
    def name(self) -> str:
        return version_name(self.version)

    @property
    def prefix(self) -> str:
        return layout.version_files(self.lineage, self.version)

    @property
    def commit_key(self) -> str:
        return layout.commit(self.lineage, self.version)


def wanted(table: Table, line: Line, version: int) -> Edition:
    """Return a version as the table knows it now.

    The result stays as it is, while the table changes during the publish.
    """
    close = line.version_close(version)
    assert close is not None, "a numbered version has its close"
    job = JobId.parse(close.job)
    known = table.jobs.get(job)
    behind = [
        SegmentEntry(
            segment=segment.id,
            job=segment.job.path,
            plan=ended.plan.sha256 if ended.plan else None,
            from_step=ended.from_step,
            to_step=ended.to_step,
            from_position=ended.from_position,
            to_position=ended.to_position,
            micro_tokens=segment.record.micro_tokens,
            outcome=ended.outcome,
        )
        for segment in line.segments_behind(version)
        if (ended := segment.closed) is not None
    ]
    return Edition(
        lineage=line.lineage,
        version=version,
        sequence=line.versions[version],
        close=close,
        job=job,
        file_name=known.history[0][2].name if known else "",
        chat_template=line.settings.chat_template if line.settings else None,
        segments=tuple(behind),
    )
