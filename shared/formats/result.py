"""The files that a segment left beside its checkpoint.

They are listed in `results/<lineage>/<segment>-<fence>.json`. BAD_ROWS is there only if the job
failed because too many rows were bad.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.formats.canonical import CanonicalFile
from shared.protocol.message import ObjectRef
from shared.protocol.names import Sha256

METRICS, JOB_LOG, BAD_ROWS = "metrics.jsonl", "job.log", "bad_rows.json"
SNAPSHOT_FOLDER = "evolution/"  # the folder of a version that holds them


class ResultFile(BaseModel):
    """One file: where it is stored, and its `path` in the version. `size` is in bytes."""

    model_config = ConfigDict(frozen=True)

    path: str
    bucket: Literal["duramen", "work"]
    key: str
    sha256: Sha256
    size: int

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(bucket=self.bucket, key=self.key, sha256=self.sha256, size=self.size)

    @property
    def is_snapshot(self) -> bool:
        return self.path.startswith(SNAPSHOT_FOLDER)

    @classmethod
    def at(cls, path: str, ref: ObjectRef) -> "ResultFile":
        """Return the entry for a stored object that gets this path in the version."""
        return cls(path=path, bucket=ref.bucket, key=ref.key, sha256=ref.sha256, size=ref.size)


class BadRows(CanonicalFile):
    """The rows of a dataset, by number from 0, that the template and the tokenizer show as bad."""

    rows: tuple[int, ...]


class SegmentResult(CanonicalFile):
    """The files of the job so far: its metrics, its log and its snapshots."""

    model_config = ConfigDict(extra="ignore")

    job: str = ""
    segment: str = ""
    files: tuple[ResultFile, ...]

    def file(self, path: str) -> ResultFile | None:
        """Return the file with this path in the version, or None if the segment left none."""
        return next((file for file in self.files if file.path == path), None)
