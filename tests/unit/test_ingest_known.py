"""What ingest says of a file whose rows were trained before, in part or all of them."""

from pathlib import Path
from typing import Any, cast

import pytest

from services.ingest.inbox.inbox import Inbox, TakenFrom
from services.ingest.ingest import Ingest
from services.ingest.outcome import known, verdict
from services.ingest.outcome.admit import Candidate, admit
from services.ingest.outcome.job_settings import Asked, read_settings
from services.ingest.reading.dataset import ORIGINAL, Built, ReadingRequest, build_dataset
from shared.formats.report import Report
from shared.formats.row_ids import ROW_IDS
from shared.ledger.jobs import Table
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId
from shared.protocol.records import LineRollback
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store
from tests.plans import a_plan
from tests.tiny import Conversation, line_of, tiny_conversations
from tests.unit.test_ledger import Stream, closed, create, opened
from tests.unit.test_preparing import Shelf


class Inlet:
    """Ingest with a lineage, on a store and a queue in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shelf, self.stream = folder, Shelf(), Stream()
        self.stream.line("create", create())
        nothing: Any = None
        inbox = Inbox(folder / "inbox")
        table: Table = self.stream.table
        cast("Any", table).update = self.is_up_to_date
        self.ingest = Ingest(nothing, cast("Store", self.shelf), inbox, table, folder / "cache")

    async def is_up_to_date(self, _: object) -> bool:
        return False

    def built(self, rows: list[Conversation]) -> Built:
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        (folder / ORIGINAL).write_bytes(b"".join(line_of(row) + b"\n" for row in rows))
        return build_dataset(folder, "grown.jsonl", ReadingRequest(1 << 20))

    def train(self, rows: list[Conversation], held: int = 0, *, ids: bool = True) -> JobId:
        """Train rows; the first ones are held out. Without `ids`, as an older release stored it."""
        built, stream = self.built(rows), self.stream
        job = JobId("main", str(built.contents.dataset), 1)
        fence = stream.job("submit", job, rows=len(rows))
        segment = f"{fence:012x}"
        fence = opened(stream, segment, job)
        stream.job("run", job, state="running", rows=len(rows))
        rest = range(held, len(rows))
        plan = a_plan(
            job,
            rows=len(rows),
            train_rows=[*rest],
            heldout_rows=[*range(held)],
            batches=[[[*rest]]],
        ).to_bytes()
        ref = self.shelf.put(PRECIOUS, layout.plan(f"{fence:064x}"), plan)
        if ids:
            data = (built.folder / ROW_IDS).read_bytes()
            self.shelf.put(PRECIOUS, layout.dataset_row_id_file(job.sha256), data)
        step = stream.sequence
        closed(stream, segment, fence, "done", 1, step, plan=ref)
        stream.job("done", job, state="done", rows=len(rows))
        return job

    def back_to(self, version: int) -> None:
        line = self.stream.table.lines["main"]
        at = line.versions[version]
        fields: dict[str, Any] = {"by": "t", "lineage": "main", "version": version, "cause": "c"}
        self.stream.line("rollback", LineRollback(target=at, head=line.heads[at], **fields))

    async def report(self, rows: list[Conversation], **settings: str) -> Report:
        """What the report of such a file says."""
        built, asked = self.built(rows), read_settings(settings) if settings else Asked()
        sha256 = str(built.contents.dataset)
        dataset = ObjectRef(
            bucket="duramen", key=layout.dataset_data(sha256), sha256=sha256, size=1
        )
        origin = TakenFrom("ab" * 16, "grown.jsonl", "normal", "main", "train", None)
        before = await known.compare_with_lineage(self.ingest, "main", built, asked)
        wish = Candidate(origin, dataset, len(rows), asked.settings, asked.again, before)
        return verdict.admitted(origin, built, admit(self.ingest.table, wish))


@pytest.fixture
def inlet(tmp_path: Path) -> Inlet:
    return Inlet(tmp_path)


ROWS = tiny_conversations(40)
CHANGED: Conversation = [*ROWS[3][:-1], ("assistant", "Something else.")]


async def test_a_file_that_has_grown_says_how_much_of_it_is_new(inlet: Inlet) -> None:
    inlet.train(ROWS[:20], held=2)
    report = await inlet.report([*ROWS[:3], CHANGED, *ROWS[4:25]])
    assert report.outcome == "queued"
    assert report.why.endswith("priority. New: 6 of 25 rows; 1 answer changed.")
    assert (report.new_rows, report.changed_answers) == (6, 1)


async def test_a_file_of_which_nothing_is_known_says_nothing_about_it(inlet: Inlet) -> None:
    report = await inlet.report(ROWS[:5])
    assert report.why.endswith("priority.")
    inlet.train(ROWS[:20])
    report = await inlet.report(ROWS[20:])
    assert (report.outcome, report.new_rows) == ("queued", 20)
    assert report.why.endswith("priority.")


async def test_a_file_without_a_new_row_is_a_duplicate(inlet: Inlet) -> None:
    inlet.train(ROWS[:20])
    inlet.train(ROWS[20:], held=3)
    report = await inlet.report(ROWS[5:15])
    assert (report.outcome, report.version) == ("duplicate", 1)
    assert report.why.startswith("all its 10 rows have already been trained: see v001 of main. To")
    assert report.next_step == "duramen versions show v001 -l main"
    report = await inlet.report([*ROWS[5:15], *ROWS[20:25]])
    assert "already been trained or are held out to be measured: see v001, v002" in report.why
    inlet.back_to(1)
    report = await inlet.report([*ROWS[5:15], *ROWS[20:25]])
    assert (report.outcome, report.new_rows) == ("queued", 5)


@pytest.mark.parametrize("settings", [{"again": "true"}, {"delta": "off"}])
async def test_all_is_trained_where_that_is_asked_for(
    inlet: Inlet, settings: dict[str, str]
) -> None:
    job = inlet.train(ROWS[:20])
    report = await inlet.report(ROWS[:10], **settings)
    assert (report.outcome, report.new_rows) == ("queued", None)
    same = await inlet.report(ROWS[:20], **settings)
    assert (same.outcome, same.job) == ("queued", job._replace(run=2).path)
    assert (await inlet.report(ROWS[:20])).outcome == "duplicate"


async def test_what_was_not_compared_is_not_called_new(
    inlet: Inlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    inlet.train(ROWS[:20], ids=False)
    inlet.train(ROWS[20:30])
    report = await inlet.report(ROWS[15:35])
    assert (report.outcome, report.new_rows) == ("queued", None)
    assert (await inlet.report(ROWS[20:25])).outcome == "duplicate"
    monkeypatch.setattr(known, "MOST_EARLIER_ROWS", 9)
    assert (await inlet.report(ROWS[20:25])).outcome == "queued"
    monkeypatch.setattr(known, "MOST_ROWS", 4)
    assert (await inlet.report(ROWS[20:25])).new_rows is None


async def test_ids_are_fetched_once(inlet: Inlet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "KEPT_FILES", 2)
    for start in (0, 10, 20):
        inlet.train(ROWS[start : start + 10])
    await inlet.report(ROWS[29:35])
    kept = sorted((inlet.folder / "cache").iterdir())
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(b"damaged")
    assert (await inlet.report(ROWS[9:35])).new_rows == 5
    inlet.shelf.objects = {
        key: data for key, data in inlet.shelf.objects.items() if ROW_IDS not in key[1]
    }
    assert (await inlet.report(ROWS[29:35])).new_rows is None  # one of three was forgotten
