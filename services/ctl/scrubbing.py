"""Texts without secrets and without strangers' words, to be given to somebody else.

Secrets that are known here are replaced wherever they stand. Of the rest a word is kept only if
this program itself uses it, or if it is a number, a time, or the start of a hash: a row that got
into an error by way of a library, or the name of a file, becomes dots.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

OWN_ROOT = Path(__file__).resolve().parents[2]
OWN_CODE = ("services", "shared", "infra")
# They hold conversations, not words about this program.
WITH_ROWS = {"sample.py", "demo.py"}
SECRET_LENGTH = 8  # what is shorter would be found in any text
LONGEST_TEXT = 600  # characters of one text
WORD = re.compile(r"[A-Za-z]+")
ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\[nrt]")
QUOTATION = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”|«[^»]*»")
KEPT_TOKEN = re.compile(
    r"""
    \d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?   # a time
    | [+-]?\d{1,12}(\.\d{1,9})?(e[+-]?\d{1,3})?[%a-zA-Z]{0,4}         # a number, with its unit
    | 127\.0\.0\.1(:\d{1,5})?                                          # this host
    | v\d{3,6}                                                        # a version
    | [0-9a-f]{12}(\.\d{1,6})?                                        # a job, by its short name
    """,
    re.VERBOSE,
)
LONG_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{4,}\b")
FILE_NAME = re.compile(r"[\w-]\.[A-Za-z]\w*$")  # also of a module: those stand in the code
DOTTED = re.compile(r"[\w.-]+\.[A-Za-z]\w*")
PIECE = re.compile(r"[\w.+:%-]+|[^\w.+:%-]+")
HIDDEN_SECRET, HIDDEN_WORD = "(secret)", "…"


class Scrub:
    """Replaces known secrets and strangers' words. `secrets`: values that must never be seen."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {value for value in secrets if len(value) >= SECRET_LENGTH}
        # The longest first: one may be a part of another.
        escaped = [re.escape(value) for value in sorted(known, key=len, reverse=True)]
        self._secrets = re.compile("|".join(escaped)) if escaped else None

    def no_secrets(self, text: str) -> str:
        """Return a text in which each known secret is one word."""
        return self._secrets.sub(HIDDEN_SECRET, text) if self._secrets else text

    def text(self, text: str) -> str:
        """Return a text without secrets, quotations and strangers' words."""
        text = ESCAPE.sub(" ", self.no_secrets(text)[: 4 * LONGEST_TEXT])
        text = LONG_HASH.sub(r"\1", QUOTATION.sub(HIDDEN_WORD, text))
        kept = "".join(scrubbed_piece(piece) for piece in PIECE.findall(text))
        return re.sub(r"…[…\s]*…", HIDDEN_WORD, kept)[:LONGEST_TEXT]

    def value(self, value: Any) -> Any:
        """Return JSON without secrets and strangers' words, in keys as in values."""
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return self.text(value) if isinstance(value, str) else value


def scrubbed_piece(piece: str) -> str:
    """Return a word or what stands between words; `…` for a word that is not ours."""
    if not piece[0].isalnum() and not re.search(r"\w", piece):
        return re.sub(r"[^\x20-\x7e\s…]", HIDDEN_WORD, piece)
    bare = piece.strip(".:+-%")
    if not bare or KEPT_TOKEN.fullmatch(bare):
        return piece
    if FILE_NAME.search(bare) and bare.lower() not in own_file_names():
        return HIDDEN_WORD
    words = WORD.findall(bare)
    others = re.sub(r"[A-Za-z_.:+%-]|(?<=[A-Za-z])\d{1,3}\b", "", bare)
    if words and not others and all(word.lower() in own_words() for word in words):
        return piece
    return HIDDEN_WORD


@cache
def own_words() -> frozenset[str]:
    """Return the words that stand in this program's own code, in lower case."""
    return frozenset(word for text in own_texts() for word in map(str.lower, WORD.findall(text)))


@cache
def own_file_names() -> frozenset[str]:
    """Return what this program's own code has with a dot in it, in lower case."""
    found = {path.name for folder in OWN_CODE for path in (OWN_ROOT / folder).rglob("*.py")}
    for name in {name.lower() for text in own_texts() for name in DOTTED.findall(text)}:
        parts = name.split(".")
        found |= {".".join(parts[:count]) for count in range(2, len(parts) + 1)}
    return frozenset(found)


def own_texts() -> Iterator[str]:
    for folder in OWN_CODE:
        for path in (OWN_ROOT / folder).rglob("*.py"):
            if path.name not in WITH_ROWS:
                yield path.read_text(encoding="utf-8")
