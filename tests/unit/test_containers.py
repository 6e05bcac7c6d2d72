"""Every container that people have: the same rows make the same dataset, or it is said why not."""

import bz2
import gzip
import io
import json
import lzma
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from services.ingest.container import wrapped
from services.ingest.container.names import PACKINGS, SUFFIXES, container_of, other_type
from services.ingest.inbox.rename import numbered
from services.ingest.reading import dataset
from services.ingest.reading.dataset import ReadingRequest
from shared.sidecar_names import DATA_SUFFIXES, PACKED_SUFFIXES, stem_of

LIMIT = 1 << 20
ROWS = [{"instruction": f"Add {n} and 1.", "output": f'It is "{n + 1}", {{ß}}.'} for n in range(12)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["output"]},
        ]
    }
    for row in ROWS
]
TURNS = [chat["messages"] for chat in CHATS]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "instruction,output\r\n" + "".join(
    '{},"{}"\r\n'.format(row["instruction"], row["output"].replace('"', '""')) for row in ROWS
)

FIRST, LAST = JSONL[: JSONL.index("Add 7") - 17], JSONL[JSONL.index("Add 7") - 17 :]


def build(tmp_path: Path, data: bytes | str, name: str, **options: Any) -> dataset.Built:
    raw = data.encode() if isinstance(data, str) else data
    (tmp_path / dataset.ORIGINAL).write_bytes(raw)
    return dataset.build_dataset(tmp_path, name, ReadingRequest(LIMIT, **options))


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def zipped(*members: tuple[str, bytes | str], mode: int = 0, **options: Any) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", options.pop("how", zipfile.ZIP_DEFLATED)) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = archive.compression
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return sink.getvalue()


def arrow(kind: str) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), io.BytesIO()
    if kind == "feather":
        pyarrow.feather.write_feather(table, sink)
    elif kind == "parquet":
        pq.write_table(table, sink)
    else:
        writer: Callable[..., Any] = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with writer(sink, table.schema) as out:
            out.write_table(table, max_chunksize=5)
    return sink.getvalue()


def viewer(row: dict[str, Any], number: int) -> dict[str, Any]:
    return {"row_idx": number, "row": row, "truncated_cells": []}


COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
CELLS = {name: {str(n): v for n, v in enumerate(column)} for name, column in COLUMNS.items()}
SPLIT = {"columns": list(ROWS[0]), "index": [*range(12)], "data": [[*row.values()] for row in ROWS]}
TABLE = {"schema": {"fields": [], "pandas_version": "1.4.0"}, "data": ROWS}
VIEWER = {"features": [{"name": "output"}], "rows": [viewer(r, n) for n, r in enumerate(ROWS)]}

TEXTS: dict[str, str] = {
    "lines": JSONL,
    "an array": json.dumps(ROWS),
    "an array over lines": pretty(ROWS) + "\n",
    "an array with a comma too many": json.dumps(ROWS)[:-1] + ",\n]",
    "arrays side by side": json.dumps(ROWS[:5]) + "\n" + json.dumps(ROWS[5:]),
    "pretty objects": "\n".join(map(pretty, ROWS)),
    "pretty objects with commas": ",\n".join(map(pretty, ROWS)),
    "pretty objects behind an empty line": "\n \n" + "\n\n".join(map(pretty, ROWS)),
    "objects on one line": "".join(map(json.dumps, ROWS)),
    "objects on one line with spaces": " ".join(map(json.dumps, ROWS)),
    "objects on one line with commas": ", ".join(map(json.dumps, ROWS)),
    "lines with commas": ",\n".join(map(json.dumps, ROWS)),
    "lines with spaces around": "".join(f"  {json.dumps(row)} \r\n" for row in ROWS),
    "two rows on a later line": JSONL.replace("}\n{", "}{", 7).replace("}{", "}\n{", 5),
    "lines, then pretty objects": json.dumps(ROWS[0]) + "\n" + "\n".join(map(pretty, ROWS[1:])),
    "pretty objects, then lines": pretty(ROWS[0]) + "\n" + JSONL.partition("\n")[2],
    "records behind a separator": "".join(f"\x1e{json.dumps(row)}\n" for row in ROWS),
    "data": json.dumps({"data": ROWS}),
    "data with a version": pretty({"version": "1", "n": 3, "info": {"a": [1]}, "data": ROWS}),
    "rows": json.dumps({"rows": ROWS, "num_rows_total": 12}),
    "the viewer's rows": json.dumps(VIEWER),
    "the viewer's rows as an array": json.dumps(VIEWER["rows"]),
    "train": pretty({"train": ROWS}),
    "train in data": json.dumps({"data": {"train": ROWS}}),
    "instances": json.dumps({"type": "text2text", "instances": ROWS}),
    "an unknown name": json.dumps({"my_rows": ROWS}),
    "batches on lines": "\n".join(json.dumps({"data": ROWS[n : n + 4]}) for n in (0, 4, 8)),
    "lists by column": json.dumps(COLUMNS),
    "lists by column, pretty": pretty(COLUMNS),
    "lists by column in train": json.dumps({"train": COLUMNS}),
    "columns of pandas": json.dumps(CELLS),
    "index of pandas": json.dumps({str(n): row for n, row in enumerate(ROWS)}),
    "rows by their ids": pretty({f"id-{n}": row for n, row in enumerate(ROWS)}),
    "split of pandas": json.dumps(SPLIT),
    "table of pandas": json.dumps(TABLE),
    "an array of conversations": json.dumps(TURNS),
    "a conversation on each line": "\n".join(map(json.dumps, TURNS)),
    "conversations by name": json.dumps({"conversations": TURNS}),
    "messages as a column": json.dumps({"messages": TURNS, "id": [*range(12)]}),
    "chats under conversations": json.dumps({"conversations": CHATS}),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    built = build(tmp_path_factory.mktemp("plain"), JSONL, "a.jsonl")
    assert built.contents.rows == len(ROWS)
    return str(built.contents.dataset)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "A.NDJSON"])
@pytest.mark.parametrize("kind", TEXTS)
def test_json_is_taken_in_every_form_under_every_ending(
    tmp_path: Path, expected: str, kind: str, name: str
) -> None:
    contents = build(tmp_path, TEXTS[kind], name).contents
    assert contents.problems == []
    assert contents.dataset == expected


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
MARKS = {"utf-32-le": b"\xff\xfe\0\0"}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", JSONL), ("a.json", json.dumps(ROWS)), ("a.csv", CSV)]
)
def test_unicode_is_taken_however_it_is_written(
    tmp_path: Path, expected: str, encoding: str, name: str, text: str
) -> None:
    built = build(tmp_path, MARKS.get(encoding, b"") + text.encode(encoding), name)
    assert built.contents.problems == []
    assert built.contents.dataset == expected


PACKED: list[tuple[str, bytes | str]] = [
    ("a.jsonl.xz", lzma.compress(JSONL.encode())),
    ("a.jsonl.xz", lzma.compress(JSONL[:300].encode()) + lzma.compress(JSONL[300:].encode())),
    ("a.jsonl.xz", lzma.compress(JSONL.encode()) + bytes(8)),
    ("a.jsonl.bz2", bz2.compress(JSONL.encode())),
    ("a.json.bz2", bz2.compress(JSONL[:300].encode()) + bz2.compress(JSONL[300:].encode())),
    ("a.csv.xz", lzma.compress(CSV.encode())),
    ("a.jsonl.gz", gzip.compress(pretty(ROWS).encode("utf-16"))),
    ("a.csv", "sep=;\r\n" + CSV.replace("instruction,", "instruction;").replace('.,"', '.;"')),
    ("a.csv", '"sep=|"\n' + CSV.replace("instruction,", "instruction|").replace('.,"', '.|"')),
    ("a.tsv", CSV.replace("instruction,", "instruction\t").replace('.,"', '.\t"')),
    ("a.txt", JSONL),
    ("a.txt", pretty(ROWS)),
    ("a.csv", JSONL),
    ("a.txt", CSV.encode("utf-16")),
    ("a.txt", CSV.replace("instruction,", "instruction\t").replace('.,"', '.\t"')),
    ("a.arrow", arrow("file")),
    ("a.arrow", arrow("stream")),
    ("a.feather", arrow("feather")),
    ("a.zip", zipped(("rows.jsonl", JSONL))),
    ("a.jsonl.zip", zipped(("rows.jsonl", JSONL), how=zipfile.ZIP_LZMA)),
    ("a.zip", zipped(("sets/rows.json", json.dumps(ROWS)), how=zipfile.ZIP_BZIP2)),
    ("a.zip", zipped(("x/", ""), ("x/README.md", "# x"), ("__MACOSX/._a", "?"), ("x/a.csv", CSV))),
    ("a.zip", zipped(("LICENSE.txt", "free"), ("notes.txt", "made so"), ("d.jsonl", JSONL))),
    ("a.zip", zipped(("train-10.jsonl", LAST), ("train-9.jsonl", FIRST))),
    ("a.zip", zipped(("a.parquet", arrow("parquet")))),
    ("a.zip", zipped(("conversations.json", json.dumps(ROWS)), ("user.json", '{"id": 1}'))),
]


@pytest.mark.parametrize(("name", "data"), PACKED, ids=range(len(PACKED)))
def test_packed_files_and_tables_hold_the_same_rows(
    tmp_path: Path, expected: str, name: str, data: bytes | str
) -> None:
    contents = build(tmp_path, data, name).contents
    assert contents.problems == []
    assert contents.dataset == expected


def test_a_row_is_a_row_and_not_a_wrapper() -> None:
    turn = {"role": "user", "content": "a"}
    for row in (
        {"messages": [turn]},
        {"conversations": [{"from": "human", "value": "a"}], "tools": [{"name": "x"}]},
        {"prompt": [turn], "completion": [turn]},
        {"question": "a", "choices": [{"label": "A", "text": "b"}], "answer": "A"},
        {"question": "a", "documents": [{"title": "t", "text": "b"}], "answer": "c"},
        {"dialog": ["Hello.", "Hi."], "act": [1, 2]},
        {"uuid": "1", "name": "x", "chat_messages": [{"text": "a", "sender": "human"}]},
        {"title": "x", "mapping": {"1": {"message": None}}},
        {"id": "1", "chat": {"messages": [turn]}},
        {"message_tree_id": "1", "prompt": {"text": "a", "role": "prompter", "replies": []}},
        {"prompt": {"text": "a"}, "completion": {"text": "b"}},
        {"a": 1},
        {},
    ):
        assert wrapped.plan_of(row) is None, row


# One line, packed with a dictionary of 512 MiB.
LARGE_DICTIONARY = bytes.fromhex(
    "fd377a585a000004e6d6b44602002101220000008240acdc0100027b7d0a"
    "000063a18ae0b503693a00011b030b2fb9101fb6f37d010000000004595a"
)
NO: list[tuple[str, bytes | str, str, str]] = [
    ("a.json", json.dumps({"train": ROWS, "test": ROWS[:1]}), "several_datasets", "`test`"),
    ("a.json", json.dumps({"data": ROWS, "tools": ["x"]}), "beside_rows", "`tools`"),
    ("a.json", json.dumps({"data": ROWS, "definition": "x"}), "beside_rows", "each row"),
    ("a.json", json.dumps({"instruction": ["a", "b"], "output": ["c"]}), "columns", "has 1"),
    ("a.json", json.dumps({**SPLIT, "data": [["a"]]}), "columns", "lacks a column"),
    ("a.json", json.dumps({"data": ROWS})[:-30], "json", "line 1"),
    ("a.json", json.dumps({"data": []}), "no_rows", "no rows"),
    ("a.jsonl", JSONL.encode("cp1252"), "utf8", "iconv -f WINDOWS-1252"),
    ("a.json", json.dumps(ROWS, ensure_ascii=False).encode("cp1252"), "utf8", "iconv"),
    ("a.csv", CSV.encode("cp1252"), "utf8", "iconv -f WINDOWS-1252"),
    ("a.txt", "Grüße".encode("cp1252"), "utf8", "iconv -f WINDOWS-1252"),
    ("a.jsonl", JSONL.encode("utf-16")[:-1], "encoding", "UTF-16"),
    ("a.jsonl", "{'messages': [{'role': 'user'}]}\n", "python_repr", "Python's repr, not JSON"),
    ("a.json", "[{'instruction': 'a', 'output': None}]", "python_repr", "json.dumps"),
    ("a.csv", "messages\n\"[{'role': 'user', 'content': 'a'}]\"\n", "python_repr", "repr"),
    ("a.csv", "messages\n\"array([{'role': 'user'}], dtype=object)\"\n", "python_repr", "repr"),
    ("a.jsonl", b"\x80\x04\x95rows", "pickle", "pickle"),
    ("a.csv", b"PK\x03\x04rest", "compressed", "zip"),
    ("a.json", b"<!DOCTYPE html><html>", "markup", "error page"),
    ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "git_lfs", "git lfs pull"),
    ("a.txt", b"%PDF-1.7", "pdf", ".txt"),
    ("a.csv", b"SQLite format 3\0", "sqlite", "sqlite3 -csv"),
    ("a.json", b"\x40\0\0\0\0\0\0\0" + b'{"__metadata__"', "weights", "weights"),
    ("a.jsonl.gz", gzip.compress(b"x" * 257 + b"ustar"), "archive", "tar"),
    ("a.jsonl", lzma.compress(b"x"), "compressed", ".jsonl.xz"),
    ("a.jsonl.xz", JSONL, "wrong_name", "named .jsonl.xz"),
    ("a.parquet", b"<html>", "wrong_name", "page of markup"),
    ("a.feather", b"FEA1rest", "wrong_name", "version 1"),
    ("a.jsonl.xz", lzma.compress(JSONL.encode())[:-20], "damaged", "xz"),
    ("a.jsonl.xz", LARGE_DICTIONARY, "compressed", "dictionary is so large"),
    ("a.jsonl.bz2", bz2.compress(JSONL.encode())[:-20], "damaged", "bzip2"),
    ("a.jsonl.bz2", bz2.compress(JSONL.encode()) + b"rest", "damaged", "bzip2"),
    ("a.arrow", arrow("file")[:-40], "damaged", "Arrow"),
    ("a.zip", zipped(("a.jsonl", JSONL))[:-30], "damaged", "zip"),
    ("a.zip", zipped(("a.jsonl", JSONL)).replace(b"Add", b"add", 1)[:60] + b"PK", "damaged", "zip"),
    ("a.zip", zipped(), "archive", "no data file"),
    ("a.zip", zipped(("a.py", "x")), "archive", "`a.py`"),
    ("a.zip", zipped(("../a.jsonl", JSONL)), "archive", "leads out"),
    ("a.zip", zipped(("/etc/a.jsonl", JSONL)), "archive", "leads out"),
    ("a.zip", zipped(("a.jsonl", "/etc/passwd"), mode=stat.S_IFLNK | 0o777), "archive", "link"),
    ("a.zip", zipped(("a.jsonl", JSONL), ("b.csv", CSV)), "archive", "`a.jsonl`, `b.csv`"),
    ("a.zip", zipped(("train.jsonl", JSONL), ("test.jsonl", JSONL)), "archive", "one dataset"),
    ("a.zip", zipped(("a.zip", zipped(("a.jsonl", JSONL)))), "archive", "packed once more"),
    ("a.zip", zipped(("a.jsonl.gz", b"x")), "archive", "packed once more"),
    ("a.zip", zipped(("xl/workbook.xml", "x"), ("[Content_Types].xml", "")), "archive", "Excel"),
    ("a.zip", zipped(("a.jsonl", b" " * (80 << 20))), "bomb", "200 times"),
    ("a.jsonl.xz", lzma.compress(b" " * (80 << 20), preset=0), "bomb", "200 times"),
    ("a.jsonl.bz2", bz2.compress(b" " * (80 << 20)), "bomb", "200 times"),
]


@pytest.mark.parametrize(
    ("name", "data", "rule", "words"), NO, ids=[f"{n}-{r}" for n, _, r, _ in NO]
)
def test_what_is_not_taken_says_what_it_is_and_what_to_do(
    tmp_path: Path, name: str, data: bytes | str, rule: str, words: str
) -> None:
    built = build(tmp_path, data, name)
    assert built.refused
    found = built.contents.problems[0]
    assert found.rule == rule
    assert words in found.message


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(("a.jsonl", JSONL)))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    assert "password" in build(tmp_path, bytes(data), "a.zip").contents.problems[0].message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.xlsx", "spreadsheet"),
        ("a.pkl", "pickle"),
        ("a.PDF", "document"),
        ("a.tar.gz", "archive"),
        ("a.parquet.gz", "unpack it once"),
        ("a.db", "sqlite3"),
        ("a.safetensors", "weights"),
        ("a.html", "markup"),
        ("a", "not read"),
    ],
)
def test_a_name_says_what_is_not_taken(name: str, words: str) -> None:
    assert container_of(name) is None
    assert words in other_type(name)
    assert ".jsonl" in other_type(name)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.jsonl.xz", "a"),
        ("a.b.CSV.BZ2", "a.b"),
        ("a.zip", "a"),
        ("a.b.zip", "a.b"),
        ("a.jsonl.zip", "a"),
        ("a.tsv", "a"),
        ("a.txt", "a"),
        ("a.feather", "a"),
    ],
)
def test_the_stem_of_a_name_is_that_of_its_sidecar(name: str, stem: str) -> None:
    assert stem_of(name) == stem
    assert {*SUFFIXES, *PACKINGS} == {*DATA_SUFFIXES, *PACKED_SUFFIXES}
    assert container_of(numbered(name, 2)) == container_of(name)


def test_a_wrapper_longer_than_the_window_is_read_in_pieces(tmp_path: Path) -> None:
    rows = [{"text": f"{n} " + "word " * 2000} for n in range(400)]  # 4 MB
    for value in ({"info": {"a": "b"}, "data": rows}, {"data": {"train": rows}}, {"rows": rows}):
        for text in (json.dumps(value), pretty(value)):
            assert build(tmp_path, text, "a.json").contents.rows == 400
    columns = {"text": [row["text"] for row in rows]}
    assert build(tmp_path, json.dumps(columns), "a.json").contents.rows == 400
    long = json.dumps({"text": "a" * (1 << 19), "id": [{"text": "b"}]})
    assert build(tmp_path, long + "\n" + long.replace("a", "c"), "a.jsonl").contents.rows == 2


# ---- tables --------------------------------------------------------------------------------------


def test_a_table_shows_what_it_does_not_read(tmp_path: Path) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "instruction": pa.array([b"a", b"b"]),
            "output": ["c", "d"],
            "blob": pa.array([{"bytes": b"\xff", "path": "x"}] * 2, picture),
            "score": [1.5, None],
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    contents = build(tmp_path, sink.getvalue(), "a.parquet").contents
    assert contents.problems == []
    assert contents.ignored_fields == {"blob": 2, "score": 1}


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([b"\xff\xfe"])}), sink)
    (problem,) = build(tmp_path, sink.getvalue(), "a.parquet").contents.problems
    assert "not UTF-8" in problem.message
