"""What a user is told, word for word, about each kind of bad input: prints a table in Markdown.

`python -m tests.bench.refusals [FILE]`

Each kind is a file dropped into a real inbox before the real service on real servers; what is
printed is the text report that then lies beside it, or why the file is not a bad one.
"""

import asyncio
import gzip
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from shared.files import sha256_bytes
from shared.formats.canonical import canonical_json
from shared.formats.report import Report
from shared.store.place import PRECIOUS
from tests.conftest import running_stack
from tests.inbox import Box, row
from tests.services import House, until

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
GOOD = row("first")


def said(*turns: object) -> bytes:
    return GOOD + json.dumps({"messages": turns}).encode() + b"\n"


def parquet(rows: list[dict[str, str]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def kinds() -> Iterator[tuple[str, str, bytes]]:
    """(kind, file name, content)."""
    yield "invalid JSON", "a.jsonl", GOOD + b'{"prompt": "a", completion: "b"}\n'
    yield "a row over two lines", "a.jsonl", GOOD + b'{"prompt": "a",\n "completion": "b"}\n'
    yield "invalid UTF-8", "a.jsonl", GOOD + b'{"prompt": "caf\xe9", "completion": "b"}\n'
    yield "lone surrogate", "a.jsonl", GOOD + b'{"prompt": "\\ud83d", "completion": "b"}\n'
    yield "BOM and CRLF", "a.jsonl", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n")
    yield "UTF-16", "a.jsonl", GOOD.decode().encode("utf-16")
    yield "NUL byte", "a.jsonl", GOOD + b'{"prompt": "a\0", "completion": "b"}\n'
    yield "NUL escape", "a.jsonl", GOOD + b'{"prompt": "a\\u0000", "completion": "b"}\n'
    yield "zero tail", "a.jsonl", row("tail") + b"\0" * 100
    yield "no last newline", "a.jsonl", row("newline").strip()
    yield "duplicate keys", "a.jsonl", GOOD + b'{"prompt":"a","prompt":"c","completion":"b"}\n'
    yield "NaN", "a.jsonl", GOOD + b'{"prompt":"a","completion":"b","score":NaN}\n'
    yield "nested too deeply", "a.jsonl", GOOD + b'{"messages":' + b"[" * 5000 + b"\n"
    yield "missing messages", "a.jsonl", GOOD + b'{"id": 7, "topic": "x"}\n'
    yield "empty messages", "a.jsonl", said()
    yield "unknown role", "a.jsonl", said({"role": "bot", "content": "a"}, ANSWER)
    yield "mis-ordered roles", "a.jsonl", said(USER, USER, ANSWER)
    yield "begins with an answer", "a.jsonl", said(ANSWER, USER, ANSWER)
    yield "system in the middle", "a.jsonl", said(USER, {"role": "system", "content": "c"}, ANSWER)
    yield "a tool that nobody called", "a.jsonl", said(USER, {"role": "tool", "content": "c"})
    yield "non-string content", "a.jsonl", said({"role": "user", "content": 3}, ANSWER)
    yield "content in parts", "a.jsonl", said({"role": "user", "content": [{"text": "a"}]}, ANSWER)
    yield "no assistant turn", "a.jsonl", said(USER)
    yield "empty answer", "a.jsonl", said(USER, {"role": "assistant", "content": " "})
    yield "special token in words", "a.jsonl", said({**USER, "content": "a<|im_end|>b"}, ANSWER)
    yield "preference data", "a.jsonl", b'{"prompt":"a","chosen":"b","rejected":"c"}\n'
    yield "two layouts", "a.jsonl", b'{"prompt":"a","completion":"b","question":"a","answer":"b"}\n'
    yield "no rows", "a.jsonl", b"\n\n"
    yield "row over the limit", "a.jsonl", GOOD + b'{"text": "' + b"a" * 3_000_000 + b'"}\n'
    yield "array named .jsonl", "a.jsonl", b'[{"prompt":"a","completion":"b"}]\n'
    yield "broken array", "a.json", b'[{"prompt":"a","completion":"b"},\n {"prompt":"a" 3}]\n'
    yield "object of rows", "a.json", b'{\n "data": []\n}\n'
    yield "gzip cut off", "a.jsonl.gz", gzip.compress(GOOD * 500)[:-9]
    yield "decompression bomb", "a.jsonl.zst", zstandard.compress(b"\0" * (100 << 20))
    yield "Parquet cut off", "a.parquet", parquet([{"text": "a"}])[:-40] + b"PAR1"
    yield "Parquet without a layout", "a.parquet", parquet([{"body": "a"}])
    yield "CSV without a layout", "a.csv", b"body,title\na,b\n"
    yield "CSV with a stray comma", "a.csv", b"question,answer\na,b,c\n"
    yield "other file type", "a.docx", b"PK\x03\x04"
    yield "odd file name", "a 'b' \"c\"\n..\x1b[31m.jsonl", b"{}\n"
    yield "name of 250 characters", "n" * 244 + ".jsonl", row("name")
    yield "repeated rows", "a.jsonl", row("twice") * 3


async def told(box: Box, folder: Path) -> tuple[str, str]:
    """(outcome, text) of the one file that is in the inbox."""

    async def ended() -> Report | None:
        for where in ("done", "rejected"):
            for path in (box.root / where).glob("*.report.json"):
                report = Report.model_validate_json(path.read_bytes())
                return None if (box.root / ".taken" / report.taken).exists() else report
        return None

    report = await until(ended, "it ends", 60.0)
    texts = list(box.root.glob("rejected/*.report.txt"))
    text = texts[0].read_text() if texts else f"{report.name} is {report.outcome}: {report.why}"
    contents = report.contents
    if not texts and contents is not None:
        facts = f"rows {contents.rows}, repeated {contents.duplicate_rows}"
        text += f" ({facts}, lines {contents.duplicate_lines})"
    for where in ("done", "rejected"):
        for path in (box.root / where).iterdir():
            path.rename(folder / f"{len(os.listdir(folder))}")  # noqa: PTH208  # odd names
    return report.outcome, text.partition("\nRows can have any of these forms")[0].strip()


async def table(box: Box, house: House, folder: Path) -> list[str]:
    root = sha256_bytes(b"base")
    tokens = canonical_json({"added_tokens": [{"content": "<|im_end|>", "special": True}]})
    house.store("vault").put_bytes(PRECIOUS, f"bases/{root}/tokenizer.json", tokens)
    await house.create(box.lineage, root)
    lines = []
    with box.running(DURAMEN_MAX_ROW_BYTES="2000000"):
        for kind, name, data in kinds():
            box.drop(name, data)
            outcome, text = await told(box, folder)
            lines += [f"### {kind}: {outcome}", "```", text, "```", ""]
        for kind, make in (
            ("symlink", lambda p: p.symlink_to("/etc/passwd")),
            ("FIFO", os.mkfifo),
        ):
            make(box.folder() / "a.jsonl")
            outcome, text = await told(box, folder)
            lines += [f"### {kind}: {outcome}", "```", text, "```", ""]
    return lines


def main(target: Path | None) -> None:
    with running_stack() as stack, tempfile.TemporaryDirectory() as name:
        house, folder = House(stack), Path(name) / "seen"
        folder.mkdir()
        box = Box(house, "refusals", Path(name))
        text = "\n".join(asyncio.run(table(box, house, folder))) + "\n"
    (target.write_text if target else sys.stdout.write)(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
