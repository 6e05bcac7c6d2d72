"""Finds the parts of an answer that alone are trained, in the text as the template shows it."""

from collections.abc import Sequence

from services.model.chat.mask import NotThere, Range, Turn, answer_places
from services.model.chat.thoughts import parted


def shown_spans(
    text: str, start: int, end: int, turn: Turn, specials: Sequence[str]
) -> list[Range]:
    """Return where `text` shows the spans of an answer, whose range is [start, end).

    A span that reaches the end of the words includes the end of turn. Raises NotThere.
    """
    found: list[Range] = []
    shown_end = end
    for first, last, shown in pieces(text, start, end, turn, specials):
        for a, b in turn.spans or ():
            here = max(a, first) - first, min(b, last) - first
            if here[0] < here[1]:
                found.append((shown + here[0], shown + here[1]))
        shown_end = shown + last - first
    words_end = len(turn.own.rstrip())
    if found and not turn.calls and any(b >= words_end for _, b in turn.spans or ()):
        found.append((shown_end, end))
    return found


def pieces(
    text: str, start: int, end: int, turn: Turn, specials: Sequence[str]
) -> list[tuple[int, int, int]]:
    """Return (start and end in the words, start in the text) of each piece of an answer's words.

    There are two pieces where the template writes a thought inside the words in its own way.
    Raises NotThere.
    """
    own = turn.own
    whole = place(text, start, end, own.strip(), turn, specials)
    if whole is not None:
        first = len(own) - len(own.lstrip())
        return [(first, first + len(own.strip()), whole)]
    made, at, behind = [], start, 0
    found = parted(own)
    for piece in (found.thought, found.answer) if found else ():
        shown, first = text.find(piece, at, end), own.find(piece, behind)
        if shown < 0:
            break
        made.append((first, first + len(piece), shown))
        at, behind = shown + len(piece), first + len(piece)
    if len(made) != 2:
        raise NotThere("the template does not show the words of which parts are trained")
    return made


def place(
    text: str, start: int, end: int, words: str, turn: Turn, specials: Sequence[str]
) -> int | None:
    """Return where the words of an answer begin in its range, or None."""
    if turn.calls:
        at = text.find(words, start, end)
        return at if at >= 0 else None
    places = answer_places(text[:end], start, words, specials)
    return next((at for at, until in places if until == end), None)
