"""What `duramen preview` says of rows: estimates said to be so, ends of long rows, no surprises."""

from typing import Any

import pytest

from services.ctl import cli
from services.ctl.views import previewed
from services.ctl.views.tokens import drawn
from shared.answers.ingest import Preview, SampledRow
from shared.answers.trainer import PreviewedRow, RowsPreviewed, Token
from shared.formats.report import Contents, Report

LIMIT = {"lineage": "main", "max_length": 100, "on_long": "set_aside", "shown": []}


def preview(rows: int, sampled: int, **contents: Any) -> Preview:
    held = Contents(name="a", original_sha256="", original_bytes=9, rows=rows, **contents)
    report = Report(
        taken="1", name="a", outcome="queued", why="", lineage="main", level="normal", kind="train"
    )
    sample = [SampledRow(row=n, line=n + 1, bytes=2, data="{}") for n in range(1, sampled + 1)]
    return Preview(report=report.model_copy(update={"contents": held}), rows=sample)


def counted(**found: Any) -> RowsPreviewed:
    fields = {"counted": 200, "fit": 198, "tokens": 2000, "trained": 500, "too_long": 0, "bad": 0}
    lengths = {"length_50": 9, "length_95": 20, "length_max": 1200}
    rest: dict[str, Any] = {"unfit": [], "unseen": []}
    return RowsPreviewed.model_validate({**LIMIT, **fields, **lengths, **rest, **found})


@pytest.mark.parametrize(
    ("rows", "found", "said"),
    [
        (1000, {"too_long": 2}, "longer than 100 tokens: about 10 of 1,000 rows, from a sample"),
        (200, {"too_long": 2}, "! not trained: longer than 100 tokens: 2 of 200 rows"),
        (1000, {"too_long": 2, "on_long": "truncate"}, "! cut to 100 tokens: about 10"),
        (
            1000,
            {"unfit": [{"reason": "no\x1b[2J answer", "rows": 1, "first": 4}]},
            "! not trained: no�[2J answer: about 5 of 1,000 rows, from a sample of 200 (line 6)",
        ),
        (1000, {"bad": 2}, "allow_bad is not set: bad are about 10 of 1,000 rows"),
        (
            9,
            {"unseen": [{"kind": "system", "rows": 3, "of": 8, "message": "it drops it"}]},
            "! it drops it: 3 of 8 rows looked at",
        ),
    ],
)
def test_what_goes_unseen_is_said_with_its_share(
    rows: int, found: dict[str, Any], said: str
) -> None:
    (line,) = previewed.warnings(preview(rows, 200), counted(**found))
    assert said in line


def test_rows_that_are_too_long_are_said_once() -> None:
    unfit = [{"reason": "longer than 100 tokens", "rows": 2, "first": 0}]
    assert len(list(previewed.warnings(preview(9, 9), counted(too_long=2, unfit=unfit)))) == 1


def test_lengths_and_tokens_are_of_the_sample_and_of_the_file() -> None:
    lengths, tokens = previewed.token_lines(preview(1000, 200), counted())
    assert "half of the 200 rows looked at have at most 9" in lengths
    assert tokens == (
        "Tokens in an epoch: about 10.0k, 2.5k of them trained, from a sample of 200 rows."
    )
    assert "about" not in list(previewed.token_lines(preview(200, 200), counted()))[1]


def test_a_long_row_is_drawn_by_its_ends() -> None:
    tokens = [{"id": n, "token": "", "text": f"{n}", "trained": n > 390} for n in range(400)]
    row = {"sequences": [{"tokens": 900, "trained": 9, "head": tokens[:200], "tail": tokens[200:]}]}
    source = SampledRow(row=1, line=3, bytes=1, data="{}")
    shown = previewed.drawn_row(source, PreviewedRow.model_validate(row), colours=False)
    ((heading, text),) = shown
    assert heading == "row 1 (line 3): 900 tokens, 9 trained"
    assert "59 … 780 tokens … 340·" in str(text)
    assert str(text).endswith("⟦391·392·393·394·395·396·397·398·399⟧")


def test_a_token_cannot_move_the_cursor() -> None:
    token = Token(id=1, token="", text="a\x1b[2Jb\x07\r\tc\nd\u202e", trained=True)
    assert str(drawn([token], colours=False)) == "⟦a�[2Jb��\tc⏎\nd�⟧"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_trained_tokens_are_marked_on_a_terminal_without_colours(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for each in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli.has_colours()
    monkeypatch.setenv(name, value)
    token = Token(id=1, token="", text="a", trained=True)
    assert str(drawn([token], colours=cli.has_colours())) == "⟦a⟧"


def test_what_is_left_out_of_a_file_is_listed_with_counts_and_lines() -> None:
    report = preview(
        5,
        0,
        layouts={"messages": 5},
        ignored_fields={"id": 5, "source": 1},
        duplicate_rows=2,
        duplicate_lines=[3, 4],
        bad_rows=1,
        rules={"empty_row": 1},
        allow_bad="2%",
    ).report
    report.settings = {"epochs": 2}
    assert [line.strip() for line in previewed.file_lines(report)][1:] == [
        "5 rows (messages 5)",
        "ignored fields: id 5, source 1",
        "2 repeated rows left out: line 3, 4",
        "1 bad row: empty_row 1; allow_bad: 2%",
        "settings: epochs: 2",
    ]


def test_a_row_without_tokens_is_shown_by_its_beginning_or_size() -> None:
    stored = SampledRow(row=1, line=2, bytes=99999, data='{"text":"' + "x" * 900 + '"}')
    assert previewed.stored_row(stored).endswith("x…")
    large = stored.model_copy(update={"data": None})
    assert previewed.stored_row(large) == "row 1 (line 2) is too large to be shown: 100.0 kB"
