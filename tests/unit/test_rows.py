"""Rows and files: what is taken, what is refused, and whether the words let a user mend it."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.inbox.rename import numbered, rename_new, show_name
from services.ingest.inbox.settle import Settling
from services.ingest.reading import dataset
from services.ingest.reading.dataset import ReadingRequest
from services.ingest.reading.repeated import Seen
from services.ingest.reading.row import RowError, canonical_row, plain_row
from shared.formats.dataset import DATA, SOURCE
from shared.formats.row_ids import ROW_IDS, opened, records_of

ROW_LIMIT = 1 << 20
GOOD = b'{"prompt":"2+2?","completion":"4"}\n'


def build(tmp_path: Path, data: bytes, name: str = "rows.jsonl", **options: Any) -> dataset.Built:
    (tmp_path / dataset.ORIGINAL).write_bytes(data)
    return dataset.build_dataset(
        tmp_path, name, ReadingRequest(options.pop("limit", ROW_LIMIT), **options)
    )


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def refused(row: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        canonical_row(row)
    return caught.value


# ---- rows ----------------------------------------------------------------------------------------


def test_equal_conversations_have_equal_bytes_in_every_layout() -> None:
    rows = [
        {"messages": [said("user", "2+2?"), said("assistant", "4")]},
        {"messages": [{"content": "2+2?", "role": "user"}, said("assistant", "4")]},
        {"prompt": "2+2?", "completion": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"instruction": "2+2?", "output": "4", "id": 7},
    ]
    lines = {canonical_row(row).line for row in rows}
    assert lines == {
        b'{"messages":[{"role":"user","content":"2+2?"},{"role":"assistant","content":"4"}]}'
    }


def test_an_input_follows_its_instruction_after_an_empty_line() -> None:
    row = canonical_row({"instruction": "Translate.", "input": "Holz", "output": "wood"})
    assert json.loads(row.line)["messages"][0]["content"] == "Translate.\n\nHolz"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_the_canonical_row_is_compact_json_without_needless_escapes(content: str) -> None:
    messages = [said("user", content), said("assistant", "a" + content)]
    plain = json.dumps({"messages": messages}, ensure_ascii=False, separators=(",", ":"))
    assert canonical_row({"messages": messages}).line == plain.encode()


def test_fields_that_do_not_matter_are_left_out_and_named() -> None:
    turns = [{**said("user", "a"), "name": "Ann"}, {**said("assistant", "b"), "tool_calls": None}]
    row = canonical_row({"id": 1, "messages": turns, "prompt": "of another reader", "tools": []})
    assert row.ignored == ("id", "messages[].name", "prompt")


USER, ANSWER = said("user", "a"), said("assistant", "b")
BAD_ROWS: list[tuple[Any, str, str]] = [
    ([1, 2], "row", "not_an_object"),
    ({}, "row", "empty_row"),
    ({"a": 1}, "row", "layout"),
    ({"messages": []}, "messages", "empty_messages"),
    ({"messages": "hi"}, "messages", "not_a_list"),
    ({"messages": [USER, "b"]}, "messages[1]", "not_an_object"),
    ({"messages": [USER]}, "messages", "no_answer"),
    ({"messages": [said("tool", "x"), ANSWER]}, "messages[0].role", "role_order"),
    ({"messages": [USER, said("assistant", "")]}, "messages[1].content", "empty_answer"),
    ({"messages": [USER, said("assistant", " \n")]}, "messages[1].content", "empty_answer"),
    (
        {"messages": [USER, said("assistant", ""), USER, ANSWER]},
        "messages[1].content",
        "empty_answer",
    ),
    ({"messages": [said("dog", "a"), ANSWER]}, "messages[0].role", "unknown_role"),
    ({"messages": [said(["user"], "a"), ANSWER]}, "messages[0].role", "not_a_string"),  # type: ignore[arg-type]
    ({"messages": [{"from": "human", "value": "a"}]}, "messages", "no_answer"),
    ({"messages": [{"id": "1", "content": "a"}, ANSWER]}, "messages[0].role", "missing_field"),
    ({"messages": [{"role": "user"}, ANSWER]}, "messages[0].content", "missing_field"),
    ({"messages": [said("user", None), ANSWER]}, "messages[0].content", "missing_field"),
    ({"messages": [said("user", {"a": 1}), ANSWER]}, "messages[0].content[0]", "not_text"),
    ({"messages": [said("user", "a\0"), ANSWER]}, "messages[0].content", "nul"),
    ({"messages": [USER, said("tool", "x"), ANSWER]}, "messages[1].role", "role_order"),
    ({"messages": [USER, {**ANSWER, "tool_calls": [1]}]}, "messages[1].tool_calls[0]", "tools"),
    ({"messages": [USER, ANSWER], "tools": [1]}, "tools[0]", "tools"),
    ({"messages": [USER, ANSWER], "tools": "[{"}, "tools", "tools"),
    ({"messages": [USER, ANSWER], "functions": [1]}, "functions[0]", "tools"),
    ({"messages": [USER, ANSWER], "prompt": "a", "completion": "c"}, "row", "two_layouts"),
    ({"prompt": "a"}, "completion", "missing_field"),
    ({"prompt": "a", "completion": {"b": 4}}, "completion", "not_a_string"),
    ({"prompt": {"a": 3}, "completion": "b"}, "prompt", "not_a_string"),
    ({"prompt": [USER], "completion": [USER]}, "completion", "no_answer"),
    ({"prompt": [USER], "completion": []}, "completion", "empty_answer"),
    ({"prompt": "a", "completion": ""}, "completion", "empty_answer"),
    ({"instruction": "a", "input": [3], "output": "b"}, "input", "not_a_string"),
    ({"output": "b"}, "instruction", "missing_field"),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, "chosen", "preference"),
    ({"conversations": []}, "conversations", "empty_messages"),
    ({"conversations": [{"from": "dog", "value": "a"}]}, "conversations[0].from", "unknown_role"),
    ({"conversations": [{"from": "human"}]}, "conversations[0].value", "missing_field"),
    ({"question": "a", "answer": ""}, "answer", "empty_answer"),
    ({"text": " "}, "text", "empty_answer"),
]


@pytest.mark.parametrize(("row", "field", "rule"), BAD_ROWS)
def test_a_bad_row_names_its_field_and_rule(row: Any, field: str, rule: str) -> None:
    error = refused(row)
    assert (error.field, error.rule) == (field, rule)
    assert error.message.endswith((".", ")"))


# ---- lines that are no rows ----------------------------------------------------------------------

BAD_LINES: list[tuple[bytes, str, int | None, str]] = [
    (b'{"prompt": "a", "completion": "b"', "json", 34, "must be complete on one line"),
    (b'{"prompt": "a" "completion": "b"}', "json", 16, "column 16"),
    (b"{'prompt': 'a'}", "python_repr", 2, "Python's repr"),
    (GOOD.strip() + b" " + GOOD.strip(), "json", 36, "one row on each line"),
    (b'{"prompt":"a","completion":NaN}', "not_finite", 28, "NaN"),
    (b'{"prompt":"\xff","completion":"b"}', "utf8", 12, "byte 0xff"),
    (b'{"prompt":"a\x00","completion":"b"}', "nul", 13, "NUL"),
    (b'{"prompt":"\\ud800","completion":"b"}', "surrogate", 12, "\\ud800"),
    (b"[" * 100_000, "too_deep", None, "nested"),
    (b'"text"', "not_an_object", None, "a string"),
]


@pytest.mark.parametrize(("line", "rule", "column", "words"), BAD_LINES)
def test_a_broken_line_is_named_with_its_column(
    tmp_path: Path, line: bytes, rule: str, column: int | None, words: str
) -> None:
    problems = build(tmp_path, GOOD + line + b"\n").contents.problems
    assert len(problems) == 1
    found = problems[0]
    assert (found.line, found.rule, found.column) == (2, rule, column)
    assert words in found.message
    assert 0 < len(found.sample) < 200
    assert found.sample.isprintable()


# ---- files ---------------------------------------------------------------------------------------


def test_a_dataset_is_named_by_the_hash_of_its_canonical_bytes(tmp_path: Path) -> None:
    other = b'{"messages":[{"role":"user","content":"1+1?"},{"role":"assistant","content":"2"}]}'
    data = b"\xef\xbb\xbf" + GOOD.strip() + b"\r\n\r\n" + other + b"\n" + GOOD
    built = build(tmp_path, data)
    contents = built.contents
    assert not built.refused
    written = (tmp_path / DATA).read_bytes()
    assert contents.dataset == hashlib.sha256(written).hexdigest()
    assert contents.original_sha256 == hashlib.sha256(data).hexdigest()
    assert written.splitlines()[1] == other
    assert (contents.rows, contents.lines, contents.blank_lines) == (2, 4, 1)
    assert (contents.duplicate_rows, contents.duplicate_lines) == (1, [4])
    assert contents.layouts == {"prompt/completion": 1, "messages": 1}
    source = (tmp_path / SOURCE).read_bytes().splitlines()
    assert [orjson.loads(line) for line in source] == [
        {"layout": "prompt/completion", "line": 1},
        {"layout": "messages", "line": 3},
    ]


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    assert build(tmp_path, GOOD.rstrip()).contents.rows == 1


def test_all_bad_rows_are_counted_and_the_first_hundred_listed(tmp_path: Path) -> None:
    contents = build(tmp_path, GOOD + b"{}\n" * 250).contents
    assert (contents.bad_rows, len(contents.problems), contents.rules) == (
        250,
        100,
        {"empty_row": 250},
    )
    assert contents.dataset is None


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "no_rows"),
        (b"\n \r\n", "no_rows"),
        (b"\xef\xbb\xbf", "no_rows"),
        (b"\0" * 9000, "nul"),
        (b"\x1f\x8b\x08rest", "compressed"),
        (b"PAR1....", "parquet"),
    ],
)
def test_a_file_that_is_no_json_lines_is_named_once(tmp_path: Path, data: bytes, rule: str) -> None:
    problems = build(tmp_path, data).contents.problems
    assert [(p.line, p.rule) for p in problems] == [(None, rule)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_row_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path, end: bytes) -> None:
    line = GOOD.strip()
    assert not build(tmp_path, line + end, limit=len(line)).refused
    built = build(tmp_path, line + end + (GOOD if end else b""), limit=len(line) - 1)
    assert built.contents.problems[0].rule == "row_too_long"
    assert built.contents.lines == (2 if end else 1)


def test_memory_does_not_grow_with_a_row_that_is_too_long(tmp_path: Path) -> None:
    with (tmp_path / dataset.ORIGINAL).open("wb") as file:
        file.write(b'{"prompt":"')
        for _ in range(64):
            file.write(b"a" * (1 << 20))
        file.write(b'","completion":"b"}\n' + GOOD)
    tracemalloc.start()
    contents = dataset.build_dataset(tmp_path, "rows.jsonl", ReadingRequest(ROW_LIMIT)).contents
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (contents.rows, contents.rules) == (1, {"row_too_long": 1})
    assert peak < 16 << 20


def test_repeated_rows_are_found_when_their_hashes_lie_on_disk(tmp_path: Path) -> None:
    lines = [b'{"prompt":"%d","completion":"x"}\n' % n for n in range(50)]
    built = build(tmp_path, b"".join(lines * 2), rows_in_memory=10)
    assert (built.contents.rows, built.contents.duplicate_rows) == (50, 50)
    assert not (tmp_path / "seen").exists()
    stored = (tmp_path / DATA).read_bytes().splitlines()
    assert opened((tmp_path / ROW_IDS).read_bytes()) == records_of(stored)
    again = build(tmp_path, b"".join(lines), rows_in_memory=10)
    assert again.contents.dataset == built.contents.dataset
    assert built.contents.duplicate_lines == list(range(51, 101))


@given(st.lists(st.integers(0, 30), max_size=80))
def test_a_set_on_disk_answers_as_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int]
) -> None:
    kept: list[int] = []
    with Seen(tmp_path_factory.mktemp("seen") / "seen", in_memory=5) as seen:
        for number in numbers:
            if seen.add(number.to_bytes(16), len(kept)):
                kept.append(number)
        bits = seen.repeated(len(kept)) or bytearray(len(kept) // 8 + 1)
        found = [n for index, n in enumerate(kept) if not bits[index >> 3] >> (index & 7) & 1]
    assert found == list(dict.fromkeys(numbers))


# ---- names and completeness ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a" * 250 + ".jsonl", "é" * 127, ".x", "a\nb'\".jsonl"]
)
def test_a_numbered_name_fits_with_its_report_beside_it(tmp_path: Path, name: str) -> None:
    for number in (1, 2, 1000):
        made = numbered(name, number)
        assert len(os.fsencode(made + ".report.json")) <= 255
        assert "/" not in made
        (tmp_path / (made + ".report.json")).touch()
    assert len(list(tmp_path.iterdir())) == 3
    assert numbered("a.jsonl", 2) == "a.2.jsonl"


def test_a_name_that_is_no_text_can_be_shown() -> None:
    shown = show_name(os.fsdecode(b"a\xff\n\x1b[31m.jsonl"))
    assert shown.isprintable()
    assert shown.encode()


def test_a_rename_never_overwrites(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1")
    second.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        rename_new(first, second)
    assert first.read_text() == "1"


def test_a_file_is_complete_when_it_is_quiet_and_ends_with_a_line(tmp_path: Path) -> None:
    path, settling = tmp_path / "a.jsonl", Settling(2, 60)

    def why(now: float) -> str:
        return settling.why_not(path, path.lstat(), now) or ""

    path.write_bytes(GOOD)
    assert "not changed" in why(0)
    assert "not changed" in why(1.9)
    assert why(2) == ""
    path.write_bytes(GOOD + GOOD[:9])
    assert "not changed" in why(3)
    assert "no line break" in why(30)
    assert why(63) == ""
    path.write_bytes(GOOD + b"\0" * 5000)
    assert "not changed" in why(100)
    assert "zeros" in why(103)


# A row as most are -> whether it takes the fast way; the closer look says the same or refuses it.
FAST: dict[str, bool] = {
    '{"instruction": "a", "input": "b", "output": "c \\\\\\" d"}': True,
    '{"question": "a \\\\", "answer": "c\\n", "id": 123456789012345678901234, "score": 0.5}': True,
    '{"question": "a", "answer": "c", "note": null, "is_new": true}': True,
    '{"question": "a", "answer": "b", "answer": "c"}': False,
    '{"question": "a", "answer": "c", "meta": {"x": "y"}}': False,
    '{"question": "a", "answer": "c", "score": NaN}': False,
    '{"question": "a", "answer": "c", "weight": 0.5}': False,
    '{"question": "a\\u0000", "answer": "c"}': False,
    '{"question": "a", "answer": 1.10}': False,
}


@pytest.mark.parametrize("text", FAST)
def test_the_fast_way_says_what_the_closer_look_says(text: str) -> None:
    raw = text.encode()
    found = plain_row(raw)
    assert (found is not None) == FAST[text]
    if found is not None:
        assert found == tuple(dataset.read_row(raw, 1 << 20))
