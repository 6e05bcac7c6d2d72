"""The ids of a dataset's rows, `datasets/<sha256>/row_ids.bin`, by which rows are found again.

Each row, in order, has a record of 32 bytes: the id of its line and that of its prompt, which are
the first 16 bytes of their SHA-256. After the last record stands the SHA-256 of them all.
"""

import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256

ROW_IDS = "row_ids.bin"
ID_BYTES = 16
RECORD = struct.Struct(f"{ID_BYTES}s{ID_BYTES}s")
NO_PROMPT = bytes(ID_BYTES)

# As canonical lines write them: a quote inside a string has a backslash before it.
ANSWER, ASKED = b'{"role":"assistant"', b'{"role":"user"'
AFTER_TURNS = b'}],"t'  # `tools` or `template_kwargs` after the turns


def ids_of(line: bytes) -> tuple[bytes, bytes]:
    """Return the id of a canonical line, given without its newline, and that of its prompt.

    The prompt is what the last answer answers: the line up to this answer, and what stands beside
    the turns. Text, and an answer that nobody asked for, have NO_PROMPT.
    """
    answer = line.rfind(ANSWER)
    if answer < 0 or line.find(ASKED, 0, answer) < 0:
        return sha256(line).digest()[:ID_BYTES], NO_PROMPT
    beside = line.find(AFTER_TURNS, answer)
    if beside >= 0:
        prompt = sha256(line[:answer] + line[beside:]).digest()[:ID_BYTES]
        return sha256(line).digest()[:ID_BYTES], prompt
    hashed = sha256(line[:answer])  # most bytes are hashed once, for both
    prompt = hashed.digest()[:ID_BYTES]
    hashed.update(line[answer:])
    return hashed.digest()[:ID_BYTES], prompt


def records_of(lines: Iterable[bytes]) -> bytes:
    """Return the records of canonical lines, given without newlines."""
    return b"".join(name + prompt for name, prompt in map(ids_of, lines))


def sealed(records: bytes) -> bytes:
    """Return records with the hash that ends their file."""
    return records + sha256(records).digest()


def opened(data: bytes) -> bytes:
    """Return the records of a file. Raises ValueError if its bytes are damaged."""
    records, seal = data[: -RECORD.size], data[-RECORD.size :]  # a SHA-256 is as long as a record
    if sha256(records).digest() != seal or len(records) % RECORD.size:
        raise ValueError(f"{ROW_IDS} is damaged")
    return records


def ids_in(records: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (id, id of the prompt) of each row, in order."""
    return RECORD.iter_unpack(records)
