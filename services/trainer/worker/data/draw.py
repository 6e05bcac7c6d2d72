"""Chooses the rows to hold out and to watch, by the content of each row alone."""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise

OWN_PROBES = 100  # of a job's own file, trained and held out together

EVAL_PROBES = 50  # of all files in inbox/eval together

EARLIER_PROBES = 16

HELDOUT_ROWS = 64  # held-out rows of a file, at most

HELDOUT_FILE_ROWS = 200  # smaller files are trained whole

HELDOUT_SALT = "heldout"


def draw(ids: Iterable[str], count: int, salt: str) -> list[str]:
    """Draw `count` different ids evenly, always the same ones, whatever order they come in."""
    ranked = sorted(set(ids), key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).digest())
    return ranked[: max(count, 0)]


def draw_by_length(lengths: Mapping[str, int], count: int, salt: str) -> list[str]:
    """Draw `count` ids, stratified by length: one from each of `count` equal parts.

    The parts are cut from the ids in the order of their lengths. The draw is always the same,
    whatever order the ids come in.
    """
    places = {name: place for place, name in enumerate(draw(lengths, len(lengths), salt))}
    ordered = sorted(lengths, key=lambda name: (lengths[name], places[name]))
    count = max(0, min(count, len(ordered)))
    edges = [part * len(ordered) // count for part in range(count + 1)] if count else []
    return [min(ordered[a:b], key=places.__getitem__) for a, b in pairwise(edges)]


def heldout(ids: Iterable[str], fraction: float) -> set[str]:
    """Return the ids of a file that are never trained. `ids` has one entry per row, with repeats.

    The result is empty for files under 200 rows; else `fraction` of the rows, at least 1, at most
    64.
    """
    rows = list(ids)
    if len(rows) < HELDOUT_FILE_ROWS or fraction <= 0:
        return set()
    count = min(HELDOUT_ROWS, max(1, round(fraction * len(rows))))
    return set(draw(rows, count, HELDOUT_SALT))
