"""Lines that break off, and rows that take several lines."""

import json
from pathlib import Path

import pytest

from shared.formats.dataset import SOURCE
from tests.unit.test_containers import CHATS, JSONL, ROWS, TURNS, build, pretty


def test_a_line_that_breaks_off_costs_that_line_alone(tmp_path: Path) -> None:
    lines = JSONL.splitlines()
    for bad in (lines[3][:30], lines[3][:-1], '{"instruction":', "{", '{"a": {"b": 1},', "}{", "["):
        text = "\n".join([*lines[:3], bad, *lines[4:]])
        built = build(tmp_path, text, "a.jsonl", allow_bad="1")
        assert (built.contents.rows, built.contents.bad_rows) == (11, 1), bad
        assert built.contents.problems[0].line == 4
        assert (tmp_path / "bad.jsonl").read_text().rstrip("\n") == bad


UNCLOSED = ['{"messages": [', '{"messages": [{"role": "us', '{"messages": [{"role": "user",', "{"]


@pytest.mark.parametrize("first", UNCLOSED)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_first_line_that_is_not_closed_costs_that_line_alone(
    tmp_path: Path, first: str, end: str
) -> None:
    for count in (1, 2, 400):
        rows = [json.dumps({"messages": [{**TURNS[0][0], "content": f"Q{n}"}, TURNS[0][1]]})
                for n in range(count)]  # fmt: skip
        built = build(tmp_path, end.join([first, *rows]) + end, "a.jsonl", allow_bad="1")
        assert (built.contents.rows, built.contents.bad_rows) == (count, 1)
        assert built.contents.problems[0].line == 1


def test_an_array_or_wrapper_on_lines_is_no_broken_line(tmp_path: Path) -> None:
    row = json.dumps(CHATS[0])
    for text in (
        f'{{"data": [\n{row}\n]}}',
        f'{{"messages": [\n{row},\n{row}\n]}}',
        f"[\n{row}\n]",
    ):
        contents = build(tmp_path, text, "a.jsonl").contents
        assert (contents.rows, contents.bad_rows) == (1, 0)


def test_rows_over_several_lines_are_numbered_by_their_first(tmp_path: Path) -> None:
    text = f'{json.dumps(ROWS[0])}\n{pretty(ROWS[1])}\n{{"text": ""}}\n' + pretty(ROWS[2])
    built = build(tmp_path, text, "a.jsonl", allow_bad="1")
    assert [p.line for p in built.contents.problems] == [6]
    origins = (tmp_path / SOURCE).read_bytes().splitlines()
    assert [json.loads(line)["line"] for line in origins] == [1, 2, 7]
