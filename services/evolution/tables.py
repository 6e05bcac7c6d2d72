"""Counts and means over many life lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.evolution.cache import Row
from services.evolution.lifelines import STATES, Point
from shared.protocol.names import SPLITS

Cells = dict[str, Any]


def in_order(row: Row) -> tuple[int, str, int]:
    return SPLITS.index(row["split"]), row["dataset"], row["row"]


def tally(states: Sequence[str]) -> dict[str, int]:
    return {state: states.count(state) for state in STATES}


def by_split(
    points: Mapping[tuple[str, str], Point], asked: Mapping[tuple[str, str], Point]
) -> dict[str, Cells]:
    """Return means by split: loss and token accuracy over `points`, exact match over `asked`."""
    found: dict[str, Cells] = {}
    for split in SPLITS:
        those = [point for (s, _), point in points.items() if s == split]
        exact = [p.exact_match for (s, _), p in asked.items() if s == split]
        answered = [match for match in exact if match is not None]
        if those:
            found[split] = {
                "count": len(those),
                "not_a_number": sum(point.loss is None for point in those),
                "loss": mean([point.loss for point in those]),
                "token_accuracy": mean([point.token_accuracy for point in those]),
                "answered": len(answered),
                "exact_match": mean(answered),
            }
    return found


def first_and_last(lines: Sequence[Sequence[Point]]) -> Cells:
    """Return the means of the first and of the last values of a split's probes.

    Each probe counts with its own first and last measurement.
    """
    asked = [[p for p in points if p.exact_match is not None] for points in lines]
    asked = [points for points in asked if points]
    return {
        "count": len(lines),
        "loss_first": mean([points[0].loss for points in lines]),
        "loss_last": mean([points[-1].loss for points in lines]),
        "answered": len(asked),
        "exact_match_first": mean([bool(points[0].exact_match) for points in asked]),
        "exact_match_last": mean([bool(points[-1].exact_match) for points in asked]),
        **{
            f"{name}_last": mean([v for p in asked if (v := getattr(p[-1], name)) is not None])
            for name in ("normalized_match", "similarity", "confidence")
        },
    }


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that are numbers; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
