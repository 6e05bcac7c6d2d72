"""Counts and means over many examples."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.evolution.cache import Row
from shared.protocol.names import SPLITS


def in_order(row: Row) -> tuple[int, str, int]:
    return SPLITS.index(row["split"]), row["dataset"], row["row"]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that are numbers; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def mean_of(values: NDArray[Any]) -> float | None:
    """Return the mean of those that are numbers; None if there are none."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(known.mean()) if len(known) else None


def number_or_none(value: float) -> float | None:
    """Return a number of an array for an answer: NaN is what is not known."""
    return None if math.isnan(value) else float(value)
