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


def line_id(line: bytes) -> bytes:
    """Return the id of a canonical line, given without its newline."""
    return sha256(line).digest()[:ID_BYTES]


def prompt_id(line: bytes) -> bytes:
    """Return the id of what the last answer of a canonical line answers, or NO_PROMPT.

    That is the line up to this answer, and what stands beside the turns. Text, and an answer that
    nobody asked for, have no prompt.
    """
    answer = line.rfind(ANSWER)
    if answer < 0 or line.find(ASKED, 0, answer) < 0:
        return NO_PROMPT
    beside = line.find(AFTER_TURNS, answer)
    prompt = line[:answer] if beside < 0 else line[:answer] + line[beside:]
    return sha256(prompt).digest()[:ID_BYTES]


def records_of(lines: Iterable[bytes]) -> bytes:
    """Return the records of canonical lines, given without newlines."""
    return b"".join(line_id(line) + prompt_id(line) for line in lines)


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
