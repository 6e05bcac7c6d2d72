"""Growing delays between attempts. Standard library alone."""

import time


class Backoff:
    """Twice as long after each failure in a row; `first` and `longest` in seconds."""

    def __init__(self, first: float, longest: float) -> None:
        self.first, self.longest = first, longest
        self.seconds = 0.0  # the delay that was chosen last
        self._due = float("-inf")  # monotonic

    @property
    def is_over(self) -> bool:
        """Whether the next attempt may be made."""
        return time.monotonic() >= self._due

    def grow(self) -> None:
        """Put the next attempt off, after one that failed."""
        self.seconds = min(2 * self.seconds or self.first, self.longest)
        self._due = time.monotonic() + self.seconds

    def end(self) -> None:
        """Begin again with the first delay, after an attempt that did not fail."""
        self.seconds, self._due = 0.0, float("-inf")
