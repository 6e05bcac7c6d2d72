"""What a check of the host or of a service found, and the JSON in which one process tells another.

Standard library alone: `infra.compose` uses it before anything is installed.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Look:
    """The result of one check. `ok` None: it could not be made from here, or is a warning."""

    what: str
    ok: bool | None
    found: str

    def line(self) -> str:
        """Return the look as one line of plain text."""
        mark = {True: "ok", False: "NO", None: "--"}[self.ok]
        return f"  {self.what:<12} {mark}  {self.found}"


def looks_to_json(looks: Iterable[Look]) -> str:
    """Return the looks as one line of JSON."""
    return json.dumps([asdict(look) for look in looks])


def looks_from_json(text: str) -> list[Look]:
    """Return the looks that `looks_to_json` wrote. Raises ValueError for any other text."""
    try:
        return [Look(each["what"], each["ok"], each["found"]) for each in json.loads(text)]
    except (TypeError, KeyError) as error:
        raise ValueError(f"this is not a list of looks: {error!r}") from error
