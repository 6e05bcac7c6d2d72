"""Signs that the loops of this process make progress, also within a round that takes long."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Loop:
    """One loop: whether a round runs, and when it last showed progress (monotonic).

    `failed`: the error that ended its last round, unless that was an outage.
    """

    name: str
    busy: bool = False
    failed: str | None = None
    beat: float = field(default_factory=time.monotonic)


loops: dict[str, Loop] = {}
current: ContextVar[Loop | None] = ContextVar("loop", default=None)


def beat() -> None:
    """Show that the loop which calls this makes progress.

    In a thread that belongs to no loop (a pool's), this counts for all of them.
    """
    loop = current.get()
    for each in [loop] if loop else list(loops.values()):
        each.beat = time.monotonic()
