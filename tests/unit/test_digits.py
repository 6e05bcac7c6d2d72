"""Numbers are kept digit for digit, or the row that holds them is refused by name."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.ingest.reading import dataset, digits
from services.ingest.reading.dataset import ReadingRequest
from shared.formats.dataset import DATA, CanonicalRow

THIRTY = 123456789012345678901234567890


def build(tmp_path: Path, text: str, name: str = "a.jsonl") -> dataset.Built:
    (tmp_path / dataset.ORIGINAL).write_text(text, encoding="utf-8")
    return dataset.build_dataset(tmp_path, name, ReadingRequest(1 << 20))


def calling(arguments: str) -> str:
    """Return a row whose call has these arguments."""
    call = '{"type":"function","function":{"name":"get","arguments":@}}'.replace("@", arguments)
    answer = '{"role":"assistant","content":null,"tool_calls":[@]}'.replace("@", call)
    return '{"messages":[{"role":"user","content":"a"},@]}'.replace("@", answer)


@pytest.mark.parametrize(
    "number", [str(THIRTY), f"-{THIRTY}", str(2**64), str(2**64 - 1), str(-(2**63) - 1), "7"]
)
@pytest.mark.parametrize("quoted", [False, True])
def test_an_integer_of_a_call_keeps_all_its_digits(
    tmp_path: Path, number: str, quoted: bool
) -> None:
    arguments = '{"order":@}'.replace("@", number)
    built = build(tmp_path, calling(json.dumps(arguments) if quoted else arguments))
    assert built.contents.problems == []
    row = CanonicalRow.parse((tmp_path / DATA).read_bytes())
    (call,) = row.messages[-1].tool_calls or ()
    assert call["function"]["arguments"] == {"order": int(number)}
    assert number in (row.line or "")


@pytest.mark.parametrize("number", ["3.14159265358979323846", "1e400", "1e-400", "0." + "1" * 30])
@pytest.mark.parametrize("quoted", [False, True])
def test_a_decimal_that_would_be_rounded_is_refused_by_name(
    tmp_path: Path, number: str, quoted: bool
) -> None:
    arguments = '{"deep":[{"x":@}]}'.replace("@", number)
    built = build(tmp_path, calling(json.dumps(arguments) if quoted else arguments))
    (problem,) = built.contents.problems
    assert problem.rule == "digits"
    assert problem.field.endswith("arguments.deep[0].x")
    assert number in problem.message


@pytest.mark.parametrize("number", ["1.10", "1E3", "0.30000000000000004", "-0.0", "123456789.125"])
def test_a_decimal_that_a_float_holds_is_stored_as_ever(tmp_path: Path, number: str) -> None:
    build(tmp_path, calling('{"x":@}'.replace("@", number)))
    stored = (tmp_path / DATA).read_bytes().rstrip(b"\n")
    assert orjson.dumps(orjson.loads(stored)) == stored
    assert orjson.dumps(float(number)) in stored


@pytest.mark.parametrize(
    "unused",
    ["NaN", "[Infinity, {}]", '{"a":{"b":-Infinity}}', str(THIRTY), "1e999", "0." + "3" * 40],
)
def test_a_number_that_is_not_used_does_no_harm(tmp_path: Path, unused: str) -> None:
    row = '{"instruction":"a","output":"b","score":@}'.replace("@", unused)
    built = build(tmp_path, row)
    assert built.contents.problems == []
    assert built.contents.ignored_fields == {"score": 1}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("row", "field"),
    [
        ('{"instruction":"a","output":@}', "output"),
        ('{"messages":[{"role":"user","content":@}]}', "messages[0].content"),
    ],
)
def test_nan_where_words_belong_is_refused_by_name(
    tmp_path: Path, row: str, field: str, value: str
) -> None:
    (problem,) = build(tmp_path, row.replace("@", value)).contents.problems
    assert (problem.field, problem.rule) == (field, "not_finite")
    assert value in problem.message


def test_nan_in_arguments_is_refused_by_name(tmp_path: Path) -> None:
    (problem,) = build(tmp_path, calling('{"x":NaN}')).contents.problems
    assert (problem.rule, problem.field[-11:]) == ("not_finite", "arguments.x")


@pytest.mark.parametrize(
    ("number", "text"),
    [("1.10", "1.10"), (str(THIRTY), str(THIRTY)), ("1e5", "1e5"), ("3.0", "3.0"), ("7", "7")],
)
def test_a_number_that_becomes_words_is_written_as_it_was(number: str, text: str) -> None:
    assert digits.number_text(digits.parse('[@, "x"]'.replace("@", number))[0]) == text


def test_half_a_surrogate_beside_nan_is_refused(tmp_path: Path) -> None:
    row = '{"instruction":"a","output":"\\ud800","x":NaN}'
    assert build(tmp_path, row).refused


NULLS: list[dict[str, Any]] = [
    {"instruction": "a", "output": "b", "messages": None},
    {"prompt": None, "text": None, "instruction": "a", "input": None, "output": "b"},
    {"question": "a", "answer": "b", "chosen": None, "rejected": None, "tools": None},
]


@pytest.mark.parametrize("row", NULLS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_null_is_absent_in_every_container(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    text = json.dumps(row if name == "a.jsonl" else [row])
    built = build(tmp_path, text, name)
    assert built.contents.problems == []
    assert built.contents.ignored_fields == {}
