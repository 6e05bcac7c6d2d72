"""The log files of an embedded run, read as lines with their times."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from shared.errors import UsageError
from shared.foreign_text import one_line

SPANS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LAST_BYTES = 512 << 10  # of a file, where only its last lines are asked for
OLDER_PARTS = 9
# As our own programs, nats-server and SeaweedFS write them; the last two in local time.
ISO = re.compile(r'(?:^|"timestamp": ?")(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)Z')
OF_NATS = re.compile(r"^\[\d+\] (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d+) ")
OF_WEED = re.compile(r"^[IWEF](\d{4} \d\d:\d\d:\d\d)(?:\.\d+)? ")


class LogLine(NamedTuple):
    """A line of a program's log. `at` is None where neither it nor one before has a time."""

    at: datetime | None
    program: str
    text: str

    def told(self) -> dict[str, str | None]:
        """Return the line for a program."""
        return {
            "service": self.program,
            "at": self.at.isoformat() if self.at else None,
            "line": self.text,
        }


def moment(since: str, now: datetime) -> datetime:
    """Return the time that a user names: `30s`, `10m`, `2h`, `1d` ago, or a time itself.

    Raises UsageError.
    """
    span = re.fullmatch(r"(\d{1,6})([smhd])", since)
    if span:
        return now - timedelta(**{SPANS[span.group(2)]: int(span.group(1))})
    try:
        named = datetime.fromisoformat(since)
    except ValueError as error:
        raise UsageError(
            f"{since!r} is not a time. Write 10m, 2h or 1d, or a time such as 2026-01-31T12:00."
        ) from error
    return named.astimezone(UTC)


def programs_with_logs(folder: Path) -> list[str]:
    """Return the names of the programs whose logs lie in a folder."""
    return sorted(path.stem for path in folder.glob("*.log"))


def last_lines(folder: Path, program: str, count: int) -> list[LogLine]:
    """Return the last lines of a program's log."""
    log = folder / f"{program}.log"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        text = file.read().decode(errors="replace")
    return list(timed(program, text.splitlines()))[-count:]


def lines_since(folder: Path, program: str, since: datetime) -> Iterator[LogLine]:
    """Yield the lines of a program's log from a time on, those of its older parts too."""
    log = folder / f"{program}.log"
    older = [log.with_name(f"{log.name}.{n}") for n in range(OLDER_PARTS, 0, -1)]
    for path in (*older, log):
        if not path.exists() or path.stat().st_mtime < since.timestamp():
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = timed(program, (line.rstrip("\n") for line in file))
            yield from (line for line in lines if line.at is not None and line.at >= since)


def by_time(lines: Iterable[LogLine]) -> list[LogLine]:
    """Return the lines of several programs in the order of their times."""
    first = datetime.min.replace(tzinfo=UTC)
    return sorted(lines, key=lambda line: line.at or first)


def timed(program: str, lines: Iterable[str]) -> Iterator[LogLine]:
    """Yield each line with its time; a line without one has that of the line before it."""
    at = None
    for line in lines:
        at = time_of(line) or at
        if line.strip():
            yield LogLine(at, program, one_line(line))


def time_of(line: str) -> datetime | None:
    """Return when a line was written, or None if it does not say."""
    try:
        if found := ISO.search(line):
            return datetime.fromisoformat(found.group(1)).replace(tzinfo=UTC)
        if found := OF_NATS.match(line):
            return datetime.strptime(found.group(1), "%Y/%m/%d %H:%M:%S.%f").astimezone(UTC)
        if found := OF_WEED.match(line):
            year = datetime.now(UTC).year
            said = datetime.strptime(f"{year} {found.group(1)}", "%Y %m%d %H:%M:%S")  # noqa: DTZ007 - local time
            return said.astimezone(UTC)
    except ValueError:  # no such day
        return None
    return None


def line_for_people(line: LogLine) -> str:
    """Return a line for people: of our own programs' JSON the fields, in their order."""
    try:
        fields = json.loads(line.text)
        event, level = fields.pop("event"), fields.pop("level", "")
    except (ValueError, AttributeError, KeyError, TypeError):
        return f"{line.program:<10} {line.text}"
    at = str(fields.pop("timestamp", ""))[:19]
    fields.pop("service", None)
    rest = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{line.program:<10} {at} {level:<7} {event}" + (f"  {rest}" if rest else "")
