"""The columns of a snapshot by name and kind, and the numbers in it that need decoding.

Needs no Parquet library; `snapshot_parquet` reads and writes the files.
"""

import json
import math
from typing import Any, Literal, NamedTuple

ColumnKind = Literal["text", "whole", "number", "flag", "texts", "bytes"]


class SnapshotColumn(NamedTuple):
    """A column of a snapshot.

    A `nullable` column may be null in a row. So may a `later` one, which older files also lack.
    """

    kind: ColumnKind
    presence: Literal["always", "nullable", "later"] = "always"


# One row for each example that was measured; FORMAT.md tells what the columns mean.
COLUMNS = {
    "probe": SnapshotColumn("text"),
    "split": SnapshotColumn("text"),
    "dataset": SnapshotColumn("text"),
    "row": SnapshotColumn("whole"),
    "global_step": SnapshotColumn("whole"),
    "position": SnapshotColumn("whole"),
    "fence": SnapshotColumn("whole"),
    "segment": SnapshotColumn("text"),
    "job": SnapshotColumn("text"),
    "prompt": SnapshotColumn("text"),
    "expected": SnapshotColumn("text"),
    "answer": SnapshotColumn("text", "nullable"),  # null, as all said of it: not asked
    "tokens": SnapshotColumn("whole"),  # of the expected answer, with its end of turn
    "loss": SnapshotColumn("number"),  # mean over these tokens, nats
    "token_accuracy": SnapshotColumn("number"),
    "first_mismatch": SnapshotColumn("whole", "nullable"),  # index in the answer; null: none
    "exact_match": SnapshotColumn("flag", "nullable"),
    "at": SnapshotColumn("text"),  # UTC, ISO 8601
    "job_tokens": SnapshotColumn("whole", "later"),  # that the job had trained on
    "pieces": SnapshotColumn("texts", "later"),  # the expected answer, cut at its tokens
    "surprisal": SnapshotColumn("bytes", "later"),  # of each piece, as `surprisal_of`
    "confidence": SnapshotColumn("number", "later"),  # geometric mean of its probabilities
    "is_cut": SnapshotColumn("flag", "later"),  # the answer reached the limit of its length
    "normalized_match": SnapshotColumn("flag", "later"),
    "similarity": SnapshotColumn("number", "later"),  # of answer and expected, 0 to 1
}
PER_FILE = ("global_step", "position", "fence", "segment", "job")  # the same in all rows
DECISION = b"duramen.decision"  # key of the file's own metadata: why it was taken, as JSON

SURPRISAL = 16  # steps a nat, in a byte


def surprisal_of(loss: float) -> int:
    """Return -ln of a token's probability (`loss`, in nats) as a byte, in sixteenths of a nat."""
    return 0 if math.isnan(loss) else round(min(max(SURPRISAL * loss, 0.0), 255.0))


def probability_of(surprisal: int) -> float:
    """Return the probability that a byte of the column `surprisal` stands for."""
    return math.exp(-surprisal / SURPRISAL)


def encode_decision(decision: dict[str, Any]) -> str:
    return json.dumps(decision, sort_keys=True)


def decode_decision(text: str | bytes) -> dict[str, Any]:
    """Return the decision to take a snapshot; NaN and infinities, not JSON, become None."""
    found: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return found
