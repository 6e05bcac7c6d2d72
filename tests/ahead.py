"""Starts the servers of the next test while the one before it runs: most of a start is waiting."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Makes one thing ahead of need, in a thread that lives as long as what it makes."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # Servers die with the thread that started them.
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._made: deque[Future[T]] = deque()

    def begin(self, wanted: int) -> None:
        """See to it that this many are there or under way."""
        while len(self._made) < wanted:
            self._made.append(self._thread.submit(self._make))

    def take(self) -> T:
        """Return the first that was begun, once it is there; raises what making it raised."""
        self.begin(1)
        return self._made.popleft().result()

    def end(self) -> list[T]:
        """Return what was made and not taken; nothing is made from now on."""
        self._thread.shutdown(cancel_futures=True)
        left = [m for m in self._made if not m.cancelled() and m.exception() is None]
        return [made.result() for made in left]
