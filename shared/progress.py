"""Shows that the loops of this process get on, also from within a round that rightly lasts long."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Loop:
    """One loop: whether a round runs, and when it last showed that it gets on (monotonic)."""

    name: str
    busy: bool = False
    beat: float = field(default_factory=time.monotonic)


loops: dict[str, Loop] = {}
current: ContextVar[Loop | None] = ContextVar("loop", default=None)


def beat() -> None:
    """Show that the loop which calls this gets on.

    In a thread that knows no loop (a pool's), all of them are taken to get on.
    """
    loop = current.get()
    for each in [loop] if loop else list(loops.values()):
        each.beat = time.monotonic()
