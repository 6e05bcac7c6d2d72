"""Tables for a terminal: only free text is shortened, whatever stands in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.cells import cell_len

from services.ctl.views.columns import (
    Cell,
    Heads,
    count_of,
    lines,
    moment_of,
    number,
    size_of,
    span_of,
    text,
)

HEADS: Heads = ["job", "state", number("rows"), text("file")]


def drawn(name: str, width: int | None, *, colours: bool = False) -> list[str]:
    row: list[Cell | str] = ["3f9a1c2b7d10.1", Cell("running 12/40", "green"), "1234567", name]
    return list(lines(HEADS, [row], width, colours=colours))


@given(some.text(), some.integers(min_value=48, max_value=120))
def test_names_and_numbers_stand_whole_and_no_line_is_wider_than_the_terminal(
    name: str, width: int
) -> None:
    shown = drawn(name, width)
    assert shown[1].startswith("3f9a1c2b7d10.1  running 12/40  1234567")
    assert all(cell_len(line) <= width for line in shown)
    assert all(line.isprintable() for line in shown)


def test_what_does_not_fit_beside_stands_below() -> None:
    assert drawn("a-long-name-of-a-file.jsonl", 42) == [
        "job             state             rows",
        "3f9a1c2b7d10.1  running 12/40  1234567",
        "  a-long-name-of-a-file.jsonl",
    ]


def test_into_a_pipe_nothing_is_shortened() -> None:
    assert drawn("n" * 300, None)[1].endswith("n" * 300)


def test_a_file_name_cannot_colour_or_move_what_follows() -> None:
    assert "\x1b" not in drawn("\x1b[2J\x1b[31mgone\r\n.jsonl", 100)[1]
    assert "\x1b[32mrunning 12/40\x1b[0m" in drawn("[red]x[/red]", 100, colours=True)[1]
    assert drawn("[red]x[/red]", 100)[1].endswith("[red]x[/red]")


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        (span_of(0.4), "0s"),
        (span_of(59.6), "1m"),
        (span_of(3 * 3600 + 300), "3h 5m"),
        (span_of(2 * 86400 + 4 * 3600), "2d 4h"),
        (count_of(950), "950"),
        (count_of(12_345), "12.3k"),
        (count_of(None), "-"),
        (size_of(999), "999 B"),
        (size_of(12_345_678), "12.3 MB"),
        (moment_of("2025-03-01T14:05:09.5+00:00"), "2025-03-01 14:05"),
    ],
)
def test_values_are_short(shown: str, meant: str) -> None:
    assert shown == meant
