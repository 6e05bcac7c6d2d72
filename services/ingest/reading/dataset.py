"""The reading of a whole file: checked, made canonical, without repeated rows.

Memory is constant.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from services.ingest.container import foreign
from services.ingest.container.names import JSONL, Container, container_of
from services.ingest.container.rows import read_rows_of
from services.ingest.outcome.report import LISTED
from services.ingest.reading import digits, repair
from services.ingest.reading.output import BAD, Bad, Output
from services.ingest.reading.repeated import ROWS_IN_MEMORY, Seen
from services.ingest.reading.row import (
    DEFAULT,
    ReadRow,
    RowLeftOut,
    RowOptions,
    canonical_row,
    plain_row,
    quotes,
)
from services.ingest.reading.row_error import RowError, Unreadable, too_long
from services.ingest.reading.rows.fields import fold
from services.ingest.reading.rows.meaning import is_read
from services.ingest.reading.special_tokens import Specials
from shared.files import sha256_file
from shared.formats.dataset import REPORT
from shared.formats.report import Contents, Problem
from shared.formats.row_ids import ids_of
from shared.protocol.allowance import Allowance

ORIGINAL = "original"  # the file as it was dropped, until it is stored
IGNORED_NAMES = 50
COPY_BYTES = 1 << 20


@dataclass
class Built:
    """The files that a dataset is made of, in `folder`, and what they hold."""

    folder: Path
    contents: Contents

    @property
    def refused(self) -> bool:
        return self.contents.dataset is None


@dataclass(frozen=True)
class ReadingRequest:
    """The way to read a file.

    `special_tokens` begin or end a turn in the lineage; no turn may contain them. `rows` is what
    the file's sidecar says of its rows.
    """

    max_row_bytes: int
    allow_bad: str | None = None
    special_tokens: tuple[str, ...] = ()
    rows_in_memory: int = ROWS_IN_MEMORY
    rows: RowOptions = DEFAULT


@dataclass
class Tally:
    """The counts made on the way through a file."""

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
    left_out: int = 0  # only_positive: their answers are marked as bad
    whole: bool = False  # the file as a whole is refused

    def refuse_row(self, error: RowError, line: int | None, sample: str) -> None:
        self.bad += 1
        self.rules[error.rule] += 1
        if len(self.problems) < LISTED:
            self.problems.append(problem(error, line, sample))

    def refuse_file(self, error: RowError, line: int | None = None, sample: str = "") -> None:
        self.whole = True
        self.rules[error.rule] += 1
        self.problems.insert(0, problem(error, line, sample))

    @property
    def found(self) -> int:
        """The number of all rows: good, bad and repeated."""
        return self.rows + self.repeated + self.bad

    def ignore(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self.ignored or len(self.ignored) < IGNORED_NAMES:
                self.ignored[name] += 1

    @property
    def counts(self) -> dict[str, Any]:
        """The counts under the names that they have in `Contents`."""
        return {
            "lines": self.lines,
            "rows": self.rows,
            "blank_lines": self.blank,
            "duplicate_rows": self.repeated,
            "duplicate_lines": self.duplicates,
            "layouts": dict(self.layouts),
            "ignored_fields": dict(self.ignored),
            "bad_rows": self.bad,
            "left_out_rows": self.left_out,
            "rules": dict(self.rules),
            "problems": self.problems,
        }

    def repeat(self, line: int) -> None:
        self.repeated += 1
        if len(self.duplicates) < LISTED:
            self.duplicates.append(line)


def problem(error: RowError, line: int | None, sample: str) -> Problem:
    return Problem(
        line=line,
        column=error.column,
        field=sayable(error.field),
        rule=error.rule,
        message=sayable(error.message),
        sample=sayable(sample),
    )


def sayable(text: str) -> str:
    """Return the text in a form that can be written: half a surrogate pair cannot."""
    return text.encode(errors="backslashreplace").decode()


def build_dataset(folder: Path, name: str, wanted: ReadingRequest) -> Built:
    """Make data.jsonl, source.jsonl and report.json of `original`, all in `folder`.

    Bad rows are copied to bad.jsonl where some are allowed. Blocking. `name` is the file's name, by
    which it is read, and which the report gives. Raises OSError when the disk is full.
    """
    tally, sha256, size = Tally(), None, 0
    container = container_of(name) or JSONL
    allowance = Allowance.of(wanted.allow_bad)
    whole = foreign.by_name(folder / ORIGINAL, container)
    if whole is not None:
        tally.refuse_file(whole)
    else:
        try:
            sha256, size = copy_rows(folder, container, tally, wanted)
        except Unreadable as error:
            sample = repair.sample(error.sample.encode(errors="replace"), None)
            tally.refuse_file(error.why, error.line, sample)
        if not tally.rows and not tally.bad and not tally.whole:
            tally.refuse_file(no_rows(tally.left_out))
    taken = not tally.whole and tally.rows > 0 and allowance.covers(tally.bad, tally.found)
    contents = Contents(
        name=name,
        container=container.suffix.removeprefix("."),
        original_sha256=sha256_file(folder / ORIGINAL),
        original_bytes=(folder / ORIGINAL).stat().st_size,
        dataset=sha256 if taken else None,
        dataset_bytes=size,
        allow_bad=wanted.allow_bad,
        **tally.counts,
    )
    stored = {"schema": 1, **contents.model_dump(exclude_defaults=True)}
    (folder / REPORT).write_bytes(orjson.dumps(stored, option=orjson.OPT_INDENT_2) + b"\n")
    return Built(folder, contents)


def no_rows(left_out: int) -> RowError:
    """Return the error for a file of which nothing can be learned."""
    if left_out:
        message = f"All {left_out} rows are left out by `only_positive`: none has a good answer."
        return RowError("file", "no_good_rows", message)
    message = "The file contains no rows: it is empty or has only blank lines."
    return RowError("file", "no_rows", message)


def copy_rows(
    folder: Path, container: Container, tally: Tally, wanted: ReadingRequest
) -> tuple[str, int]:
    """Copy the rows of the original; return SHA-256 and size in bytes of the data."""
    limit, options, plain = wanted.max_row_bytes, wanted.rows, wanted.rows.is_default
    specials = Specials(wanted.special_tokens)
    with (
        Output(folder) as output,
        Bad(folder / BAD if wanted.allow_bad else None) as bad,
        Seen(folder / "seen", wanted.rows_in_memory) as seen,
    ):
        rows = read_rows_of(folder / ORIGINAL, container, limit, bad.go_on, reads_of(options))
        for number, raw in rows:
            tally.lines = number
            if isinstance(raw, RowError):
                tally.refuse_row(raw, number, "")
                continue
            found = plain_row(raw) if plain and len(raw) <= limit else None
            if found is None and (not raw or raw.isspace()):
                tally.blank += 1
                continue
            try:
                layout, line, ignored = found or read_row(raw, limit, options)
                if ignored:
                    tally.ignore(ignored)
                if layout != "text":
                    specials.check(line)
            except RowLeftOut:
                tally.left_out += 1
                continue
            except RowError as error:
                tally.refuse_row(error, number, repair.sample(raw, error.column))
                bad.write(raw)
                continue
            name, prompt = ids_of(line)
            if seen.add(name, output.rows):
                output.add(layout, line, number, name + prompt)
            else:
                tally.repeat(number)
        return finish(output, seen, tally)


def finish(output: Output, seen: Seen, tally: Tally) -> tuple[str, int]:
    """Write what waits, without the repeated rows that are only known now, and count the rest.

    Return SHA-256 and size in bytes of the data.
    """
    output.finish()
    repeated = seen.repeated(output.rows)
    if repeated is not None:
        for number in output.without(repeated):
            tally.repeat(number)
    tally.rows, tally.layouts = output.rows, output.layouts
    return output.sha256, output.size


def reads_of(options: RowOptions) -> Callable[[str], bool]:
    """Return whether a column of a table is read, by its name."""
    return lambda name: is_read(name) or fold(name) in options.names


def read_row(raw: bytes, max_row_bytes: int, options: RowOptions = DEFAULT) -> ReadRow:
    """Return the canonical row of one line. Raises RowError, RowLeftOut."""
    if len(raw) > max_row_bytes and len(raw.rstrip(b"\r\n")) > max_row_bytes:
        raise too_long(max_row_bytes)
    try:
        parsed = digits.parse(raw)
    except orjson.JSONDecodeError as error:
        raise repair.diagnose(raw, error.msg) from error
    try:
        row = canonical_row(parsed, options)
    except RowError as error:
        if any(wrong.field == error.field for wrong in digits.unfit(parsed)):
            raise unfit_number(raw, error) from error
        raise
    check_keys(raw, parsed)
    return row


def unfit_number(raw: bytes, error: RowError) -> RowError:
    """Return what is wrong with a number that has made a row bad, with its place in the line."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as refused:
        told = repair.diagnose(raw, refused.msg)
        words = error if error.rule in digits.NUMBER_RULES else told
        return RowError(error.field, words.rule, words.message, told.column)
    return error


def check_keys(raw: bytes, parsed: Any) -> None:
    """Check that no key occurs twice in one object. Raises RowError if one does.

    The parser kept the last one. What it dropped was at least a string, so that its output has
    fewer quotes than its input.
    """
    try:
        line = digits.as_given(parsed)
    except orjson.JSONEncodeError as error:
        raise RowError("row", "too_deep", "The row is nested too deeply.") from error
    if quotes(raw) != quotes(line):
        twice = repair.key_twice(raw)
        if twice is not None:
            raise twice


def copy_original(descriptor: int, target: Path) -> None:
    """Make a private copy of an open file.

    What is read, hashed and stored is then one and the same.
    """
    with target.open("wb") as file:
        try:
            while os.copy_file_range(descriptor, file.fileno(), 1 << 30):
                pass
            return
        except (OSError, AttributeError):
            file.truncate(0)  # another file system, or no such call: read and write
        file.seek(0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        while block := os.read(descriptor, COPY_BYTES):
            file.write(block)
