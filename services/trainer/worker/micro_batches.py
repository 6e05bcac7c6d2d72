"""Cuts a step so that its activations fit into memory; the update stays the same."""

from collections.abc import Mapping, Sequence

from services.model.encoded import Encoded
from services.trainer.micro_batch import smaller
from services.trainer.worker.data.plan import Material


def may_be_halved(material: Material, micro_tokens: int) -> bool:
    """Return whether halving the size, down to the floor, cuts any step into more parts."""
    least = micro_tokens
    while (half := smaller(least)) is not None:
        least = half
    return any(
        len(split(rows, material.rows, least)) > len(split(rows, material.rows, micro_tokens))
        for rows in material.plan.steps
    )


def split(
    rows: Sequence[int], encoded: Mapping[int, Encoded], micro_tokens: int
) -> list[list[int]]:
    """Cut a step into micro-batches of at most `micro_tokens` tokens; a longer row stands alone."""
    parts: list[list[int]] = []
    size = 0
    for row in rows:
        tokens = len(encoded[row])
        if not parts or size + tokens > micro_tokens:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += tokens
    return parts
