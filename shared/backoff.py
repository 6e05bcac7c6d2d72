"""Growing delays between attempts. Uses only the standard library."""

import time


class Backoff:
    """A delay that doubles after each failure in a row, from `first` to `longest` seconds."""

    def __init__(self, first: float, longest: float) -> None:
        self.first, self.longest = first, longest
        self.seconds = 0.0  # the delay that was chosen last
        self._due = float("-inf")  # monotonic

    @property
    def is_over(self) -> bool:
        """Return whether the next attempt may be made."""
        return time.monotonic() >= self._due

    def grow(self) -> None:
        """Put off the next attempt, after one that failed."""
        self.seconds = min(2 * self.seconds or self.first, self.longest)
        self._due = time.monotonic() + self.seconds

    def end(self) -> None:
        """Reset the delay, after an attempt that did not fail."""
        self.seconds, self._due = 0.0, float("-inf")
