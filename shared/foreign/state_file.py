"""A service's own small state files. One that cannot be read is set aside, and said.

Nothing in them is precious: what they say is on the bus or in a store, or is measured again.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from shared import log
from shared.errors import MALFORMED
from shared.files import write_synced
from shared.foreign.json_bytes import json_object, whole_number

T = TypeVar("T")

lost: dict[str, str] = {}  # what was lost since this process began -> why


def kept_as(path: Path | None, read: Callable[[bytes], T], missing: T) -> T:
    """Return what `read` makes of a state file; `missing` if there is none, or a damaged one.

    A damaged file is renamed to `<name>.damaged`, and named in `lost`, which becomes an alarm.
    """
    if path is None:
        return missing
    try:
        return read(path.read_bytes())
    except FileNotFoundError:
        return missing
    except (OSError, *MALFORMED) as error:
        put_aside(path, str(error) or type(error).__name__)
        return missing


def put_aside(path: Path, why: str) -> None:
    """Rename a damaged state file, so that it is not read again, and note why."""
    with suppress(OSError):
        path.replace(path.with_name(f"{path.name}.damaged"))
    note_lost(str(path), f"it cannot be read ({why[:200]}), and is now {path.name}.damaged")


def note_lost(what: str, why: str) -> None:
    """Note that a service has lost something that it remembered: each becomes an alarm."""
    lost[what] = why
    log.get().error("state_lost", what=what, why=why)


def kept_object(path: Path | None) -> dict[str, object]:
    """Return the JSON object in a state file; empty if there is none, or a damaged one."""
    return kept_as(path, json_object, {})


def kept_numbers(path: Path | None) -> dict[str, int]:
    """Return the whole numbers by name in a state file; empty without one that can be read."""
    return kept_as(path, numbers_by_name, {})


def numbers_by_name(data: bytes) -> dict[str, int]:
    """Return a JSON object of whole numbers. Raises ValueError."""
    found = json_object(data)
    if not all(type(value) is int for value in found.values()):
        raise ValueError("it does not hold numbers alone")
    return found


def kept_number(path: Path) -> int:
    """Return the number in a state file; 0 if there is none, or a damaged one."""
    return kept_as(path, number_in, 0)


def number_in(data: bytes) -> int:
    """Return the number that ASCII digits give. Raises ValueError."""
    found = whole_number(data.decode().strip())
    if found is None:
        raise ValueError("it is not a number")
    return found


def keep_number(path: Path, number: int) -> None:
    """Keep a number for the next start. On a full disk the one before stays."""
    try:
        write_synced(path, str(number).encode())
    except OSError as error:
        log.get().error("state_not_kept", path=str(path), error=str(error))
