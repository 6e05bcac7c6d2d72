"""Layouts with tools, containers, tables, bombs: what is read, and how what cannot be is told."""

import gzip
import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from services.ingest.container import json_rows, lines
from services.ingest.container.names import container_of
from services.ingest.reading import dataset
from services.ingest.reading.dataset import ReadingRequest
from services.ingest.reading.output import BAD
from services.ingest.reading.row import RowError, canonical_row
from services.ingest.reading.row_error import Unreadable
from services.ingest.reading.special_tokens import Specials
from shared.sidecar_names import stem_of

LIMIT = 1 << 20
ROWS = [{"prompt": f"What is {n}?", "completion": f'It is "{n}" — \\ {n}.'} for n in range(40)]
LINES = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)


def build(tmp_path: Path, data: bytes, name: str, **options: Any) -> dataset.Built:
    (tmp_path / dataset.ORIGINAL).write_bytes(data)
    return dataset.build_dataset(
        tmp_path, name, ReadingRequest(options.pop("limit", LIMIT), **options)
    )


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def csv_of(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(rows[0])]
    lines += [delimiter.join(cell(text) for text in row.values()) for row in rows]
    return ("\r\n".join(lines) + "\r\n").encode()


# ---- layouts -------------------------------------------------------------------------------------

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
PLAIN = {"messages": [USER, ANSWER]}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLING = {
    "messages": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "name": "add"},
        ANSWER,
    ],
    "tools": [TOOL],
}
SAME: list[tuple[Any, Any]] = [
    ({"prompt": [USER], "completion": [ANSWER]}, PLAIN),
    ({"prompt": "a", "completion": [ANSWER]}, PLAIN),
    ({"prompt": [USER], "completion": "b"}, PLAIN),
    ({"question": "a", "answer": "b"}, PLAIN),
    ({"instruction": "a", "output": "b", "text": "rendered by another reader"}, PLAIN),
    (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        PLAIN,
    ),
    ({"conversations": [USER, ANSWER]}, PLAIN),
    (
        {
            "system": "s",
            "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        },
        {"messages": [{"role": "system", "content": "s"}, USER, ANSWER]},
    ),
    ({"text": "words"}, {"text": "words"}),
    (CALLING, CALLING),
    (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "add", "arguments": '{"x": 1}'}}],
                },
                {"role": "function", "content": "2", "name": "add"},
                ANSWER,
            ],
            "tools": json.dumps([TOOL["function"]]),
        },
        CALLING,
    ),
    (
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "2", "name": "add"},
                {"from": "gpt", "value": "b"},
            ],
            "tools": [TOOL],
        },
        CALLING,
    ),
]


@pytest.mark.parametrize(("row", "expected"), SAME)
def test_each_layout_has_the_one_canonical_form(row: Any, expected: Any) -> None:
    line = canonical_row(row).line
    assert orjson.loads(line) == expected
    assert canonical_row(orjson.loads(line)).line == line


def test_the_arguments_of_a_call_must_be_an_object() -> None:
    for arguments in ("[1]", "{", 3):
        call = {"function": {"name": "add", "arguments": arguments}}
        with pytest.raises(RowError, match="arguments"):
            canonical_row({"messages": [USER, {**ANSWER, "tool_calls": [call]}]})


# ---- keys that stand twice, special tokens -------------------------------------------------------

ANSWERED = b',{"role":"assistant","content":"b"}]}'
TWICE = [
    b'{"prompt":"a","prompt":"c","completion":"b"}',
    b'{"messages":[{"role":"user","content":"a","content":"x"}' + ANSWERED,
    b'{"messages":[{"role":"user","content":"\\u0022\\u0022","content":"\\"\\""}' + ANSWERED,
    b'{"messages": [], "messages":[{"role":"user","content":"a \\\\"}' + ANSWERED,
    b'{"question":"a","answer":"b","id":1,"id":2}',
]


@pytest.mark.parametrize("line", TWICE)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, line: bytes) -> None:
    problems = build(tmp_path, line + b"\n", "a.jsonl").contents.problems
    assert [p.rule for p in problems] == ["duplicate_key"]
    assert "occurs twice" in problems[0].message


def test_quotes_and_backslashes_in_words_are_no_second_keys(tmp_path: Path) -> None:
    contents = ['"a":"b"', "\\", '\\"', ':"', "\\\\", '"\\":', "\u00e9\u2028", "a\\u0022b", "/"]
    rows = [{"messages": [{**USER, "content": c}, {**ANSWER, "content": c}]} for c in contents]
    lines = [json.dumps(row) for row in rows] + [json.dumps(r, ensure_ascii=False) for r in rows]
    lines += [json.dumps({**row, "id": '"'}, indent=None).replace('"', '"', 1) for row in rows]
    built = build(tmp_path, "\n".join(lines).encode(), "a.jsonl")
    assert built.contents.problems == []
    assert built.contents.rows == len(contents)


def test_special_tokens_of_the_base_are_found_in_words_and_not_in_text(tmp_path: Path) -> None:
    row = {"messages": [{**USER, "content": "say <|im_end|>"}, ANSWER]}
    data = orjson.dumps(row) + b"\n" + orjson.dumps({"text": "<|im_end|>"}) + b"\n" + LINES
    built = build(tmp_path, data, "a.jsonl", special_tokens=("<|im_end|>", "</s>"))
    (problem,) = built.contents.problems
    assert (problem.line, problem.field, problem.rule) == (
        1,
        "messages[0].content",
        "special_token",
    )
    assert "`<|im_end|>`" in problem.message
    Specials(["</s>", "[INST]"]).check(b'{"messages":"a < b </p> [x]"}')


# ---- containers ----------------------------------------------------------------------------------

MESSAGES = [{"messages": [{**USER, "content": f"{n}\n,"}, ANSWER]} for n in range(40)]
PACKED: list[tuple[str, bytes]] = [
    ("a.jsonl.gz", gzip.compress(LINES)),
    ("a.jsonl.gz", gzip.compress(LINES[:1000]) + gzip.compress(LINES[1000:])),
    ("a.jsonl.zst", zstandard.compress(LINES)),
    ("a.jsonl.zst", zstandard.compress(LINES[:1000]) + zstandard.compress(LINES[1000:])),
    ("a.json", json.dumps(ROWS).encode()),
    ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2, ensure_ascii=False).encode() + b"\n"),
    ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ("a.json", LINES),
    ("a.csv", csv_of(ROWS)),
    ("a.csv", b"\xef\xbb\xbf" + csv_of(ROWS, ";")),
    ("A.CSV", csv_of(ROWS, "\t")),
    ("a.parquet", parquet(ROWS)),
    ("a.ndjson", LINES),
]


@pytest.mark.parametrize(("name", "data"), PACKED)
def test_the_same_rows_make_the_same_dataset_however_they_are_packed(
    tmp_path: Path, name: str, data: bytes
) -> None:
    built = build(tmp_path, data, name)
    assert built.contents.problems == []
    assert built.contents.rows == 40
    plain = build(tmp_path, LINES, "a.jsonl")
    assert built.contents.dataset == plain.contents.dataset


def test_tables_may_hold_messages(tmp_path: Path) -> None:
    table = parquet([{"messages": None, "text": "some words"}, *MESSAGES])
    built = build(tmp_path, table, "a.parquet")
    assert built.contents.problems == []
    assert built.contents.layouts == {"messages": 40, "text": 1}
    cells = [{"messages": json.dumps(row["messages"])} for row in MESSAGES]
    built = build(tmp_path, csv_of(cells), "a.csv")
    assert built.contents.layouts == {"messages": 40}


def test_names_tell_containers() -> None:
    assert container_of("x.xlsx") is None
    assert container_of("x.parquet.gz") is None
    assert container_of(".gz") is None
    assert [stem_of(n) for n in ("a.jsonl", "a.b.JSONL.gz", "a.parquet", "x")] == [
        "a",
        "a.b",
        "a",
        "x",
    ]


WRONG: list[tuple[str, bytes, str, int | None, str]] = [
    ("a.jsonl.gz", gzip.compress(LINES)[:-20], "damaged", None, "cut off"),
    ("a.jsonl.gz", gzip.compress(LINES)[:-4] + b"0000", "damaged", None, "damaged"),
    ("a.jsonl.zst", zstandard.compress(LINES)[:-20], "damaged", None, "does not end"),
    ("a.jsonl.zst", zstandard.compress(LINES) + b"(\xb5/\xfdrest", "damaged", None, "zstd"),
    ("a.jsonl.gz", LINES, "wrong_name", None, "named .jsonl.gz"),
    ("a.parquet", LINES, "wrong_name", None, "named .parquet"),
    ("a.parquet", parquet(ROWS)[:-30], "damaged", None, "Parquet"),
    ("a.parquet", parquet([{"x": 1}]), "layout", 1, "`x`"),
    ("a.parquet", parquet([{"chosen": "a", "rejected": "b"}]), "preference", 1, "chosen"),
    ("a.jsonl", parquet(ROWS), "parquet", None, ".parquet"),
    ("a.json", b"{\n" + b'"data": []}\n', "no_rows", None, "no rows"),
    ("a.json", b'[{"prompt":"a","completion":"b"},\n{"prompt" 3}]', "json", 2, "column 11"),
    ("a.json", b'[{"prompt":"a","completion":"b"}\n', "json", 2, "missing"),
    ("a.json", b'[{"prompt":"a","completion":"b"}] x', "json", 1, "follows"),
    ("a.json", b'["' + b"a" * 70, "json", 1, "Unterminated"),
    ("a.json", b'[{"prompt":"\xff"}]', "utf8", 1, "byte 13"),
    ("a.json", b"[" * 9000, "json", 1, "deeply"),
    ("a.json", b"[]", "no_rows", None, "no rows"),
    ("a.csv", b"x,y\n1,2\n", "layout", 1, "`x`, `y`"),
    ("a.csv", b"question,answer,answer\na,b,c\n", "csv_head", 1, "same name"),
    ("a.csv", b"question,answer\na,b,c\n", "csv_columns", 2, "3 columns"),
    ("a.csv", b'question,answer\na,"b"c\n', "csv", 2, "CSV"),
    ("a.csv", b'question,answer\na,"b\n', "csv", 2, "CSV"),
    ("a.csv", b"question,answer\n\xff,b\n", "utf8", 2, "UTF-8"),
    ("a.csv", b"question,answer\n\na,\n", "empty_answer", 3, "`answer`"),
    ("a.csv", b"question,answer\xff\na,b\n", "utf8", 1, "header line"),
    ("a.csv", b"question,answer\n", "no_rows", None, "no rows"),
    ("a.jsonl.gz", gzip.compress(b" " * (80 << 20)), "bomb", None, "200 times"),
    ("a.jsonl.zst", zstandard.compress(b" " * (80 << 20)), "bomb", None, "200 times"),
]


@pytest.mark.parametrize(("name", "data", "rule", "line", "words"), WRONG)
def test_what_cannot_be_read_says_where_and_why(
    tmp_path: Path, name: str, data: bytes, rule: str, line: int | None, words: str
) -> None:
    built = build(tmp_path, data, name)
    assert built.refused
    found = built.contents.problems[0]
    assert (found.rule, found.line) == (rule, line)
    assert words in found.message


@pytest.mark.slow
def test_a_parquet_bomb_is_refused(tmp_path: Path) -> None:
    many = pa.table({"text": pa.array(["a" * 5000]).take(pa.array([0] * 60_000))})
    sink = io.BytesIO()
    pq.write_table(many, sink, compression="zstd")
    built = build(tmp_path, sink.getvalue(), "a.parquet")
    assert built.contents.problems[0].rule == "bomb"


def test_an_array_of_any_length_takes_constant_memory(tmp_path: Path) -> None:
    with (tmp_path / dataset.ORIGINAL).open("wb") as file:
        file.write(b"[")
        for n in range(4_000):  # 36 MiB in all
            row = json.dumps({"text": f"{n} " * 2_000}).encode()
            file.write(b"%b\n%b" % (b"," if n else b"", row))
        file.write(b"]")
    tracemalloc.start()
    contents = dataset.build_dataset(tmp_path, "a.json", ReadingRequest(LIMIT)).contents
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert contents.rows == 4_000
    assert peak < 24 << 20


def test_a_row_of_an_array_may_not_be_longer_than_the_limit(tmp_path: Path) -> None:
    data = json.dumps([{"text": "a" * 3_000_000}, *ROWS]).encode()
    built = build(tmp_path, data, "a.json", limit=2_000_000)
    assert built.contents.problems[0].rule == "row_too_long"
    assert build(tmp_path, data, "a.json", limit=4_000_000).contents.rows == 41


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b'["' + b"a" * 3_000_000, "row_too_long"),  # the string goes on
        (b'["' + b"a" * (2 << 20) + b"\\" * 900_000, "row_too_long"),
        (b'[{"a" 1, "b": "' + b"a" * 3_000_000, "json"),
        (b"[[" + b"1" * 5000 + b', "' + b"a" * 3_000_000, "json"),
    ],
)
def test_what_breaks_early_is_told_as_broken_and_what_goes_on_as_too_long(
    tmp_path: Path, text: bytes, rule: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        list(json_rows.json_rows(io.BufferedReader(io.BytesIO(text)), 1_000_000, print))
    assert refused.value.why.rule == rule


def test_lines_are_whole_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "READ_BYTES", 37)
    chance = random.Random(5)
    for _ in range(60):
        sizes = [chance.choice([0, 1, 5, 36, 37, 38, 200, 400]) for _ in range(9)]
        wanted = [b"x" * size for size in sizes]
        data = b"\xef\xbb\xbf" + b"\n".join(wanted) + (b"\n" if chance.random() < 0.5 else b"")
        rest: list[bytes] = []
        found: list[bytes] = []
        for number, line in lines.read_lines(io.BytesIO(data), 250, rest.append):
            assert isinstance(line, bytes)
            found.append(line)
            assert number == len(found)
        if not wanted[-1]:
            wanted = wanted[: len(found)]
        assert [len(line) > 250 for line in found] == [len(w) > 250 for w in wanted]
        assert b"".join(rest).strip(b"x") == b""
        pairs = zip(found, wanted, strict=True)
        assert all(line == w for line, w in pairs if len(w) <= 250)


# ---- bad rows that may be left out ---------------------------------------------------------------


def test_bad_rows_are_left_out_as_far_as_that_is_allowed(tmp_path: Path) -> None:
    bad = [b"{}", b'{"prompt": ', b'{"text":"' + b"a" * (LIMIT + 3_000_000) + b'"}', b"\xff"]
    data = b"\n".join([LINES.strip(), *bad]) + b"\n" + LINES
    for allow, taken in (("4", True), ("4%", False), ("10.0 %", True), ("3", False), (None, False)):
        built = build(tmp_path, data, "a.jsonl", allow_bad=allow)
        assert built.refused is not taken
        assert built.contents.bad_rows == 4
        if allow:
            kept = (tmp_path / BAD).read_bytes().split(b"\n")
            assert kept[: len(bad)] == bad
    assert not build(tmp_path, LINES, "a.jsonl", allow_bad="4").refused


def test_a_file_of_bad_rows_alone_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    assert build(tmp_path, b"{}\n" * 3, "a.jsonl", allow_bad="100%").refused
