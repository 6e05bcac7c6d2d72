"""Compares an answer with the expected one."""

import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher

NUMBER = re.compile(r"(?<![\w.,])([+-]?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w])(?!,\d)")
AROUND = " \"'“”‘’`.!?"


@dataclass(frozen=True)
class Grade:
    """The grade of an answer.

    `exact`: the same except for white space at the ends. `normalized`: the same except for case,
    white space, the way numbers are written, and quotes, full stops, `!` and `?` at the ends.
    `similarity`: the share of characters that both have in the same order, 0 to 1.
    """

    exact: bool
    normalized: bool
    similarity: float


def grade(answer: str, expected: set[str], beginning: str | None = None) -> Grade:
    """Return the grade of an answer.

    `expected`: all right answers. `beginning`: the text to compare with instead, if the answer was
    cut; such an answer is neither exact nor normalized.
    """
    said = answer.strip()
    exact = beginning is None and said in expected
    if exact:
        return Grade(exact=True, normalized=True, similarity=1.0)
    others = expected if beginning is None else {beginning.strip()}
    return Grade(
        exact=False,
        normalized=beginning is None and normalize(said) in {normalize(e) for e in expected},
        similarity=max(similarity(said, other) for other in others),
    )


def normalize(text: str) -> str:
    """Return a text as compared: `The total is  1,200.50.` becomes `the total is 1200.5`."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return NUMBER.sub(plain_number, plain.strip(AROUND))


def plain_number(found: re.Match[str]) -> str:
    sign, whole, part = found.groups()
    decimals = (part or "").rstrip("0").rstrip(".")
    digits = whole.replace(",", "").lstrip("0") or "0"
    return ("-" if sign == "-" else "") + digits + decimals


def similarity(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second, autojunk=False).ratio()
