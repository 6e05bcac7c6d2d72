"""The sequences of a stream that a recovery left out, as the stream's own metadata name them.

A bus that was lost may have given them, so they are not given again; who remembers one of them
learns here that it was settled.
"""

import re

SKIPPED_RANGES = "duramen.skipped"  # such as "5-1004,2000-3010", both ends included
UNFINISHED = "duramen.unfinished"  # there while a recovery fills the stream


def parse_skipped(text: str) -> list[tuple[int, int]]:
    """Return (first, last) of each range; what is not a range is left out."""
    return [(int(first), int(last)) for first, last in re.findall(r"([0-9]+)-([0-9]+)", text)]


def skipped_text(ranges: list[tuple[int, int]]) -> str:
    """Return ranges as a stream's metadata hold them."""
    return ",".join(f"{first}-{last}" for first, last in ranges)
