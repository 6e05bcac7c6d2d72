"""metrics.jsonl of a segment: a line for each step, and one for each decision about a snapshot."""

import dataclasses
from pathlib import Path
from typing import Any

import orjson

from shared.files import write_synced
from shared.formats.metrics import MetricsLine


@dataclasses.dataclass
class Past:
    """The job's steps so far, its earlier workers' included, as noted in the metrics.

    `bad`: the rows behind each skipped step of the unbroken series that ends here. The times are
    those of the whole job.
    """

    steps: int = 0
    bad: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    train_seconds: float = 0.0
    snapshot_seconds: float = 0.0

    def take(self, line: MetricsLine) -> None:
        """Add one line of the metrics."""
        if line.rows is None:  # a decision about a snapshot, between the steps
            return
        self.steps += 1
        self.train_seconds += line.seconds
        self.snapshot_seconds = line.snapshot_seconds
        if line.skipped:
            broken = tuple(r.row for r in line.rows if r.loss is None)
            self.bad.append(broken or tuple(r.row for r in line.rows))
        else:
            self.bad.clear()


def open_metrics(path: Path, position: int) -> tuple[Any, Past]:
    """Open the metrics for appending; return the file and what its lines say.

    Lines of steps after `position`, which are about to be done again, are removed first.
    """
    kept, past = [], Past()
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            found = MetricsLine.model_validate_json(line)
        except ValueError:
            continue  # a line that a killed process left unfinished
        if found.position <= position:
            past.take(found)
            kept.append(line + b"\n")
    write_synced(path, b"".join(kept))
    return path.open("ab", buffering=0), past


def write_line(file: Any, record: dict[str, Any]) -> None:
    """Append one record as a line of JSON."""
    write_whole(file, orjson.dumps(record) + b"\n")


def write_whole(file: Any, data: bytes) -> None:
    """Write all of the data: a disk that fills up takes a part and fails only at the next write."""
    while data:
        data = data[file.write(data) :]
