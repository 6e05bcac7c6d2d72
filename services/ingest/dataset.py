"""A whole file: checked, brought to canonical form, without repeated rows. Constant memory."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from services.ingest import broken
from services.ingest.report import LISTED, Contents, Problem
from services.ingest.rows import Row, RowError, canonical
from services.ingest.seen import ROWS_IN_MEMORY, Seen
from shared.manifest import sha256_file

BOM = b"\xef\xbb\xbf"
DATA, SOURCE, ORIGINAL, REPORT = "data.jsonl", "source.jsonl", "original.jsonl", "report.json"
IGNORED_NAMES = 50
BUFFER_BYTES = 1 << 20


@dataclass
class Built:
    """The files that a dataset is made of, in `folder`, and what they hold."""

    folder: Path
    contents: Contents

    @property
    def refused(self) -> bool:
        return bool(self.contents.problems)


@dataclass
class Tally:
    """What was counted on the way through a file."""

    layouts: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    lines: int = 0
    rows: int = 0
    blank: int = 0
    repeated: int = 0
    bad: int = 0

    def refuse_row(self, error: RowError, line: int, raw: bytes) -> None:
        self.bad += 1
        self.rules[error.rule] += 1
        if len(self.problems) < LISTED:
            sample = broken.sample(raw, error.column)
            self.problems.append(problem(error, line, sample))

    def refuse_file(self, error: RowError) -> None:
        self.rules[error.rule] += 1
        self.problems.append(problem(error, None, ""))

    def ignore(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self.ignored or len(self.ignored) < IGNORED_NAMES:
                self.ignored[name] += 1

    def repeat(self, line: int) -> None:
        self.repeated += 1
        if len(self.duplicates) < LISTED:
            self.duplicates.append(line)


def problem(error: RowError, line: int | None, sample: str) -> Problem:
    return Problem(
        line=line,
        column=error.column,
        field=error.field,
        rule=error.rule,
        message=error.message,
        sample=sample,
    )


def build(
    folder: Path, name: str, max_row_bytes: int, rows_in_memory: int = ROWS_IN_MEMORY
) -> Built:
    """Make data.jsonl, source.jsonl and report.json of original.jsonl, all in `folder`.

    Blocking. `name` is the file's, for the report. Raises OSError when the disk is full.
    """
    tally, digest, size = Tally(), hashlib.sha256(), 0
    whole = broken.foreign(folder / ORIGINAL)
    if whole is not None:
        tally.refuse_file(whole)
    else:
        size = copy_rows(folder, tally, digest, max_row_bytes, rows_in_memory)
        if not tally.rows and not tally.bad:
            tally.refuse_file(RowError("file", "no_rows", "The file holds no rows."))
    contents = Contents(
        name=name,
        original_sha256=sha256_file(folder / ORIGINAL),
        original_bytes=(folder / ORIGINAL).stat().st_size,
        dataset=None if tally.problems else digest.hexdigest(),
        dataset_bytes=size,
        lines=tally.lines,
        rows=tally.rows,
        blank_lines=tally.blank,
        duplicate_rows=tally.repeated,
        duplicate_lines=tally.duplicates,
        layouts=dict(tally.layouts),
        ignored_fields=dict(tally.ignored),
        bad_rows=tally.bad,
        rules=dict(tally.rules),
        problems=tally.problems,
    )
    stored = {"schema": 1, **contents.model_dump(exclude_defaults=True)}
    (folder / REPORT).write_bytes(orjson.dumps(stored, option=orjson.OPT_INDENT_2) + b"\n")
    return Built(folder, contents)


def copy_rows(
    folder: Path, tally: Tally, digest: Any, max_row_bytes: int, rows_in_memory: int
) -> int:
    """Row by row from the original to data and source; the size of the data in bytes."""
    with (
        (folder / ORIGINAL).open("rb", buffering=BUFFER_BYTES) as original,
        (folder / DATA).open("wb", buffering=BUFFER_BYTES) as data,
        (folder / SOURCE).open("wb", buffering=BUFFER_BYTES) as source,
        Seen(folder / "seen.sqlite", rows_in_memory) as seen,
    ):
        for number, raw in lines(original, max_row_bytes):
            tally.lines = number
            if raw.isspace():
                tally.blank += 1
                continue
            try:
                row = read_row(raw, max_row_bytes)
            except RowError as error:
                tally.refuse_row(error, number, raw)
                continue
            if row.ignored:
                tally.ignore(row.ignored)
            if not seen.add(hashlib.blake2b(row.line, digest_size=16).digest()):
                tally.repeat(number)
                continue
            line = row.line + b"\n"
            data.write(line)
            digest.update(line)
            source.write(b'{"layout":"%b","line":%d}\n' % (row.layout.encode(), number))
            tally.rows += 1
            tally.layouts[row.layout] += 1
        return data.tell()


def lines(file: BinaryIO, max_row_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without a byte order mark); of a longer line only its beginning.

    The rest of a long line is read in pieces and dropped: memory does not grow with it. What is
    cut is still longer than `max_row_bytes` without its line end.
    """
    limit = max_row_bytes + len("\r\n") + len(BOM) + 1
    number = 0
    while raw := file.readline(limit):
        number += 1
        rest = raw
        while len(rest) == limit and not rest.endswith(b"\n"):
            rest = file.readline(limit)
        yield number, (raw.removeprefix(BOM) or b"\n") if number == 1 else raw


def read_row(raw: bytes, max_row_bytes: int) -> Row:
    """The canonical row of one line. Raises RowError."""
    if len(raw) > max_row_bytes and len(raw.rstrip(b"\r\n")) > max_row_bytes:
        message = f"The row is longer than {max_row_bytes} bytes (DURAMEN_MAX_ROW_BYTES)."
        raise RowError("row", "row_too_long", message)
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise broken.diagnose(raw, error.msg) from error
    return canonical(parsed)


def copy_original(descriptor: int, target: Path) -> None:
    """A private copy of an open file: what is read, hashed and stored is one and the same."""
    with target.open("wb") as file:
        try:
            while os.copy_file_range(descriptor, file.fileno(), 1 << 30):
                pass
            return
        except (OSError, AttributeError):
            file.truncate(0)  # another file system, or no such call: read and write
        file.seek(0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        while block := os.read(descriptor, BUFFER_BYTES):
            file.write(block)
