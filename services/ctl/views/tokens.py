"""Tokens as a terminal shows them: where they are cut, and which of them are trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.answers.trainer import Token
from shared.foreign_text import plain

if TYPE_CHECKING:
    from rich.text import Text

# Tokens that follow each other alternate between two tones, so that the cuts can be seen.
TONES = {True: ("black on green", "black on bright_green"), False: ("default", "dim")}


def drawn(tokens: Sequence[Token], *, colours: bool) -> "Text":
    """Return the tokens in alternating tones; without colours, cut by ·, trained ones in ⟦ ⟧."""
    from rich.text import Text

    text, before = Text(), False
    for n, token in enumerate(tokens):
        words, trained = visible(token.text), token.trained
        if colours:
            text.append(words, style=TONES[trained][n % 2])
            continue
        edge = ("⟦" if trained else "⟧") if trained != before else ("·" if n else "")
        text.append(edge + words)
        before = trained
    return text.append("" if colours or not before else "⟧")


def visible(words: str) -> str:
    """Return a token's text with the ends of its lines marked."""
    return plain(words).replace("\n", "⏎\n")
