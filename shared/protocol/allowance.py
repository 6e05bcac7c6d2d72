"""How many rows of a file may be bad, as a user writes it: `10`, or `2%`."""

import re
from typing import NamedTuple, Self

ALLOWANCE = re.compile(r"(\d{1,9})|(\d{1,2}(?:\.\d{1,3})?|100)\s*%")


class Allowance(NamedTuple):
    """How many rows may be bad: so many, and so many percent of all."""

    rows: int = 0
    percent: float = 0.0

    @classmethod
    def of(cls, text: str | None) -> Self:
        """Return the limit that `N` or `P%` states; None allows none. Raises ValueError."""
        if text is None:
            return cls()
        match = ALLOWANCE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                "it must be a number of rows, such as 10, or a share of them, such as 2%"
            )
        return cls(rows=int(match[1])) if match[1] else cls(percent=float(match[2]))

    def covers(self, bad: int, found: int) -> bool:
        """Return whether `bad` of `found` rows are within the limit."""
        return bad <= max(self.rows, self.percent * found / 100)
