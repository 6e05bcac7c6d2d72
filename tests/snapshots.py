"""Snapshot files as the trainer writes them, with measurements that a test makes up."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.formats.snapshot import surprisal_of
from shared.formats.snapshot_parquet import encode_snapshot
from shared.ledger.lineage import Segment
from shared.protocol.names import now


@dataclass(frozen=True)
class Measurement:
    """One probe in a snapshot; `right` is None where the model was not asked."""

    probe: str
    loss: float
    right: bool | None = None
    answer: str | None = None
    split: str = "trained"
    token_accuracy: float = 0.5
    row: int = 0


def parquet(
    segment: Segment, fence: int, global_step: int, measurements: Sequence[Measurement]
) -> bytes:
    """The file of one snapshot."""
    first = segment.first
    rows = [
        {
            "probe": hashlib.sha256(m.probe.encode()).hexdigest(),
            "split": m.split,
            "dataset": segment.job.sha256,
            "row": m.row,
            "global_step": global_step,
            "position": first.position + global_step - first.global_step,
            "fence": fence,
            "segment": segment.id,
            "job": segment.job.path,
            "prompt": f"What is {m.probe}?",
            "expected": m.probe,
            "answer": m.answer if m.right is not None else None,
            "tokens": 3,
            "loss": m.loss,
            "token_accuracy": m.token_accuracy,
            "first_mismatch": None,
            "exact_match": m.right,
            "at": now().isoformat(),
            "job_tokens": 100 * (first.position + global_step - first.global_step),
            "pieces": [m.probe[:2], m.probe[2:], ""],
            "surprisal": [0, surprisal_of(m.loss) if math.isfinite(m.loss) else 0, 255],
            "confidence": None if m.right is None else 0.5,
        }
        for m in measurements
    ]
    return encode_snapshot(rows, {})
