"""Tables for a terminal, in which only free text is shortened: names and numbers stay whole.

They are not rich's own tables: those take eight seconds for ten thousand rows, and where the
terminal is narrow they cut numbers as readily as words.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from shared.foreign_text import one_line

GAP = "  "
LEAST = 8  # columns that a free text needs to say anything
CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "magenta": "35",
    "cyan": "36",
}


@dataclass(frozen=True)
class Column:
    """A column. `free`: its text may be shortened to what the other columns leave."""

    title: str
    right: bool = False
    free: bool = False


@dataclass(frozen=True)
class Cell:
    """A text with a colour, one of CODES."""

    text: str
    style: str = ""


Heads = list[Column | str]
Rows = list[list[Cell | str]]


def number(title: str) -> Column:
    return Column(title, right=True)


def text(title: str) -> Column:
    return Column(title, free=True)


def lines(
    columns: Sequence[Column | str],
    rows: Iterable[Sequence[Cell | str]],
    width: int | None,
    *,
    colours: bool,
) -> Iterator[str]:
    """Yield a heading and a line for each row. `width`: of the terminal, None for no limit.

    Where the other columns leave a free text too little room, it is put on a line below.
    """
    known = [c if isinstance(c, Column) else Column(c) for c in columns]
    table = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(known)
    texts = [texts_of(column) for column in table]
    widths = [
        max(size(column.title), widest(below)) for column, below in zip(known, texts, strict=True)
    ]
    beside = [*range(len(known))]
    if width is not None and room_for_free(known, widths, width) < LEAST:
        beside = [at for at in beside if not known[at].free]
    below = [at for at in range(len(known)) if at not in beside]
    if width is not None:
        widths = shortened(known, widths, width, beside)

    def drawn(row: Sequence[str], style: Sequence[str], places: Sequence[int]) -> str:
        cells = (padded(known[n], row[n], widths[n], style[n]) for n in places)
        return GAP.join(cells).rstrip()

    yield drawn([c.title for c in known], ["bold" if colours else ""] * len(known), beside)
    styles = [styles_of(column) if colours else [""] * len(column) for column in table]
    if not below:
        fits = [filled(*column) for column in zip(known, texts, styles, widths, strict=True)]
        yield from (GAP.join(row).rstrip() for row in zip(*fits, strict=True))
        return
    for cell, style in zip(zip(*texts, strict=True), zip(*styles, strict=True), strict=True):
        yield drawn(cell, style, beside)
        if any(cell[at] for at in below):
            yield GAP + drawn(cell, style, below)


def texts_of(column: Sequence[Cell | str]) -> list[str]:
    """Return what is written in a column, each text on one line."""
    texts = [c.text if isinstance(c, Cell) else c for c in column]
    return texts if "".join(texts).isprintable() else [one_line(c) for c in texts]


def styles_of(column: Sequence[Cell | str]) -> list[str]:
    return [c.style if isinstance(c, Cell) else "" for c in column]


def filled(column: Column, texts: list[str], styles: list[str], room: int) -> list[str]:
    """Return a column's cells, each as wide as the column."""
    if "".join(texts).isascii() and not any(styles) and max(map(len, texts), default=0) <= room:
        # most columns, at a tenth of the time
        return [c.rjust(room) if column.right else c.ljust(room) for c in texts]
    cells = zip(texts, styles, strict=True)
    return [padded(column, cell, room, style) for cell, style in cells]


def room_for_free(columns: Sequence[Column], widths: Sequence[int], width: int) -> int:
    """Return the room that each free text would get at the least, if it needs any."""
    free = [at for at, column in enumerate(columns) if column.free]
    if not free:
        return LEAST
    fixed = sum(widths[at] for at in range(len(columns)) if at not in free)
    room = (width - fixed - len(GAP) * (len(columns) - 1)) // len(free)
    return LEAST if all(widths[at] <= room for at in free) else room


def widest(column: Sequence[str]) -> int:
    return max(map(len if "".join(column).isascii() else size, column), default=0)


def shortened(
    columns: Sequence[Column], widths: Sequence[int], width: int, beside: Sequence[int]
) -> list[int]:
    """Return the widths of the columns, with free texts sharing what the others leave.

    Narrow ones get what they need first; wide ones share the rest evenly.
    """
    free = [at for at, column in enumerate(columns) if column.free]
    others = [widths[at] for at in beside if at not in free]
    gaps = len(beside) - 1 if len(beside) == len(columns) else len(free)
    left = width - len(GAP) * gaps - (sum(others) if len(beside) == len(columns) else 0)
    found = list(widths)
    for place, at in enumerate(sorted(free, key=lambda at: widths[at])):
        found[at] = min(widths[at], max(LEAST, left // (len(free) - place)))
        left -= found[at]
    return found


def padded(column: Column, cell: str, room: int, style: str) -> str:
    """Return a cell as wide as its column, cut with an ellipsis where it is wider."""
    cell = fitted(cell, room)
    blank = " " * (room - size(cell))
    if style:
        cell = f"\x1b[{CODES[style]}m{cell}\x1b[0m"
    return blank + cell if column.right else cell + blank


def fitted(cell: str, room: int) -> str:
    """Return a text whole where it fits, else its beginning and an ellipsis."""
    return cell if size(cell) <= room else set_cell_size(cell, room - 1).rstrip() + "…"


def size(cell: str) -> int:
    return len(cell) if cell.isascii() else cell_len(cell)


# ---- values --------------------------------------------------------------------------------------


def size_of(count: int | None) -> str:
    """Return bytes for people: `1.2 MB`."""
    if count is None:
        return "-"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def count_of(count: float | None, one: str = "", many: str = "") -> str:
    """Return a number for people: `950`, `12.3k`, `4.5M`; or with a noun `1 job`, `3 jobs`.

    `many`: the plural, where it is not `one` with an s. With a noun the number is exact.
    """
    if count is None:
        return "-"
    if one:
        return f"{count:,.0f} {one if count == 1 else many or one + 's'}"
    for unit, worth in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= worth:
            return f"{count / worth:.1f}{unit}"
    return f"{count:.0f}"


def loss_of(loss: float | None, digits: int = 2) -> str:
    """Return a loss for people, also one that was not a number."""
    return "not a number" if loss is None else f"{loss:.{digits}f}"


def span_of(seconds: float) -> str:
    """Return a duration for people, in its two largest units: `45s`, `12m`, `3h 5m`, `2d 4h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not hours:
        return f"{minutes}m"
    if not days:
        return f"{hours}h {minutes % 60}m"
    return f"{days}d {hours % 24}h"


def moment_of(text: str | None) -> str:
    """Return an ISO time in UTC to the minute: `2025-03-01 14:05`."""
    return text[:16].replace("T", " ") if text else "-"
