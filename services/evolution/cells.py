"""The numbers of measurements in columns: one structured array for each snapshot.

What an example was asked and what the model answered is text and lies in the cache beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.protocol.names import SPLITS

NONE = -1  # of a flag or a whole number that is not there; of a fraction it is NaN
EARLIER = SPLITS.index("earlier")
# `probe` and `dataset` are numbers that the cache gave them, `split` the index in SPLITS.
CELL = np.dtype(
    [
        ("probe", "<i4"),
        ("dataset", "<i4"),
        ("row", "<i4"),
        ("tokens", "<i4"),
        ("first_mismatch", "<i4"),
        ("loss", "<f8"),
        ("token_accuracy", "<f8"),
        ("similarity", "<f8"),
        ("confidence", "<f8"),
        ("split", "i1"),
        ("exact_match", "i1"),
        ("normalized_match", "i1"),
        ("is_cut", "i1"),
    ]
)
Cells = NDArray[Any]  # of CELL
FRACTIONS = ("loss", "token_accuracy", "similarity", "confidence")
WHOLES = ("tokens", "first_mismatch", "exact_match", "normalized_match", "is_cut")
FLAG_FIELDS = ("exact_match", "normalized_match")


def cells_of(
    rows: Sequence[Mapping[str, Any]], probes: Mapping[str, int], datasets: Mapping[str, int]
) -> Cells:
    """Return the cells of a snapshot's rows, in their order.

    Raises OverflowError for a number that has no place in one.
    """
    cells = np.empty(len(rows), CELL)
    cells["probe"] = [probes[row["probe"]] for row in rows]
    cells["dataset"] = [datasets[row["dataset"]] for row in rows]
    cells["row"] = [row["row"] for row in rows]
    cells["split"] = [SPLITS.index(row["split"]) for row in rows]
    for name in FRACTIONS:
        cells[name] = [np.nan if row[name] is None else row[name] for row in rows]
    for name in WHOLES:
        cells[name] = [NONE if row[name] is None else row[name] for row in rows]
    return cells


def values_of(cell: np.void) -> dict[str, Any]:
    """Return the numbers of one cell as a row has them; None is what is not there."""
    found: dict[str, Any] = {"row": int(cell["row"]), "split": SPLITS[cell["split"]]}
    for name in FRACTIONS:
        found[name] = None if np.isnan(cell[name]) else float(cell[name])
    for name in WHOLES:
        found[name] = None if cell[name] == NONE else int(cell[name])
    for name in FLAG_FIELDS:
        found[name] = None if found[name] is None else bool(found[name])
    return found


def right(cells: Cells) -> NDArray[np.bool_]:
    """Return which cells are right, as `Point.is_right` has it."""
    by_tokens = cells["token_accuracy"] >= 1.0
    by_answer = np.where(cells["exact_match"] != NONE, cells["exact_match"] == 1, by_tokens)
    known = cells["normalized_match"] != NONE
    found: NDArray[np.bool_] = np.where(known, cells["normalized_match"] == 1, by_answer)
    return found
