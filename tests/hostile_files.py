"""Hostile training files, the same for the same seed: what people drop by mistake, and worse."""

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Made = tuple[str, bytes]  # suffix of the name, bytes
WORDS = ["a", "é", "\u2028", "<|im_end|>", "\\", '"', "{", "\n", "\x7f", "😀", "null", "  ", "]"]
NAMES = ["plain", "two words", "quo'te\"s", "x..", "-rf *", "line\nbreak", "\u202egnp", "n" * 180]
SUFFIXES = [".jsonl", ".json", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet"]


def files(count: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """(name as bytes, content) of `count` files, no two with the same name or content."""
    chance = random.Random(seed)
    for number in range(count):
        suffix, data = chance.choice(KINDS)(chance)
        name = f"{chance.choice(NAMES)} {number}".encode()
        if chance.random() < 0.05:
            name += b"\xff\x1b["
        if chance.random() < 0.1:
            suffix = chance.choice(SUFFIXES)  # named as what it is not
        if suffix in (".jsonl", ".csv"):
            data += b"\n" * (not data.endswith(b"\n")) + b" " * number + b"\n"
        yield name + suffix.encode(), data


def words(chance: random.Random) -> str:
    return "".join(chance.choices(WORDS, k=chance.randrange(6))) + str(chance.random())


def row(chance: random.Random) -> dict[str, Any]:
    """A good row of some layout."""
    asked, said = words(chance), words(chance)
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return chance.choice(
        [
            {"messages": turns},
            {"prompt": asked, "completion": said},
            {"instruction": asked, "input": words(chance), "output": said},
            {
                "conversations": [
                    {"from": "human", "value": asked},
                    {"from": "gpt", "value": said},
                ]
            },
            {"question": asked, "answer": said},
            {"text": said},
        ]
    )


def spoilt(chance: random.Random, value: Any) -> Any:
    """The value with something in it made wrong."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        kept = {k: v for k, v in value.items() if k != name or chance.random() < 0.7}
        return {**kept, chance.choice([name, name.upper(), ""]): spoilt(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], spoilt(chance, value[place]), *value[place + 1 :]]
    return chance.choice([None, True, -1, 1e308, "", " ", "\0", [], {}, [[]], "tool", 2**63])


def lines(chance: random.Random) -> bytes:
    rows = [row(chance) for _ in range(chance.randrange(1, 30))]
    wrong = chance.random()
    made = [r if chance.random() > wrong / 4 else spoilt(chance, r) for r in rows]
    ascii_only = chance.random() < 0.5
    dumped = [json.dumps(r).encode() if ascii_only else orjson.dumps(r) for r in made]
    return chance.choice([b"\n", b"\r\n", b"\n\n"]).join(dumped) + b"\n"


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out, doubled, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.randrange(1, 40))
        match chance.randrange(5):
            case 0:
                changed[at:end] = bytes(chance.randrange(256) for _ in range(end - at))
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end]
            case 3:
                changed[at:end] = b"\0" * (end - at)
            case _:
                changed[at:at] = chance.choice([b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"NaN"])
    return bytes(changed[: chance.randrange(len(changed))] if chance.random() < 0.2 else changed)


def jsonl(chance: random.Random) -> Made:
    return ".jsonl", lines(chance)


def broken_jsonl(chance: random.Random) -> Made:
    return ".jsonl", damaged(chance, lines(chance))


def array(chance: random.Random) -> Made:
    rows = [row(chance) for _ in range(5)]
    data = json.dumps(rows, indent=chance.choice([None, 1])).encode()
    return ".json", damaged(chance, data) if chance.random() < 0.7 else data


def pack(chance: random.Random, data: bytes) -> Made:
    if chance.random() < 0.5:
        return ".jsonl.gz", gzip.compress(data)
    return ".jsonl.zst", zstandard.compress(data)


def packed(chance: random.Random) -> Made:
    data = damaged(chance, lines(chance)) if chance.random() < 0.5 else lines(chance)
    suffix, made = pack(chance, data)
    return suffix, damaged(chance, made) if chance.random() < 0.5 else made


def bomb(chance: random.Random) -> Made:
    piece = chance.choice([b"\0", b"[", b'{"text":"a"}\n'])
    # Rows are read one by one, and each takes as long as a thousand zeros.
    size = chance.randrange(1, 9) << (15 if piece.endswith(b"\n") else 20)
    zeros = piece * (size // len(piece))
    return pack(chance, zeros + str(chance.random()).encode())


def table(chance: random.Random) -> Made:
    rows = [{"question": words(chance), "answer": words(chance)} for _ in range(20)]
    if chance.random() < 0.5:
        sink = io.StringIO()
        writer = csv.DictWriter(sink, list(rows[0]), delimiter=chance.choice(",;\t"))
        writer.writeheader()
        writer.writerows(rows)
        data = sink.getvalue().encode()
        return ".csv", damaged(chance, data) if chance.random() < 0.7 else data
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, compression=chance.choice(["none", "zstd"]))
    return ".parquet", damaged(chance, out.getvalue()) if chance.random() < 0.8 else out.getvalue()


def deep(chance: random.Random) -> Made:
    depth = chance.choice([200, 500, 5000, 200_000])
    nested = chance.choice([b"[" * depth, b'{"tools":' * depth, b"[" * depth + b"]" * depth])
    return ".jsonl", b'{"messages":' + nested + b"}\n" + str(chance.random()).encode() + b"\n"


def long(chance: random.Random) -> Made:
    """A row beyond the limit that the test sets."""
    return ".jsonl", lines(chance) + b'{"text":"' + b"a" * 2_100_000 + b'"}\n' + lines(chance)


def noise(chance: random.Random) -> Made:
    return chance.choice(SUFFIXES), chance.randbytes(chance.randrange(1, 3000))


def odd_numbers(chance: random.Random) -> Made:
    number = chance.choice(["1e999", "NaN", "-Infinity", "1" * 5000, "0x1", "1_0"])
    return ".jsonl", f'{{"prompt":"a","completion":"{chance.random()}","n":{number}}}\n'.encode()


KINDS: list[Callable[[random.Random], Made]] = [
    *[jsonl, broken_jsonl, broken_jsonl, array, packed, packed, bomb, table, table],
    *[deep, long, noise, odd_numbers],
]
