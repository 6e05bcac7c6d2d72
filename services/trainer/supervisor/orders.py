"""The orders of users to this trainer: the desired state, and one-time commands that wait."""

from pathlib import Path

from shared.bus.client import Bus
from shared.ledger.control import Control
from shared.ledger.invalid import VoidTeller
from shared.ledger.last_answer import LastAnswer
from shared.protocol.control import Once


class Orders:
    """The commands for trainers."""

    def __init__(self, bus: Bus, instance: str, folder: Path) -> None:
        self.control = Control("trainer")
        self._bus = bus
        self._last = LastAnswer(bus, "trainer", instance, folder / "answered-through")
        # It reports invalid records among its own commands; the vault reports the rest.
        self._voids = VoidTeller(bus, "trainer", "CTL", folder / "voids-told")

    @property
    def through(self) -> int:
        """The sequence of the last command that was answered; -1 before that is known."""
        return self._last.sequence

    @property
    def state(self) -> str:
        """The desired state."""
        return self.control.state

    async def refresh(self) -> None:
        """Read what is new on the bus."""
        await self.control.update(self._bus)
        await self._last.recall(self.control.seen)
        await self._voids.tell(self.control.voids)

    def pending(self) -> list[tuple[int, Once]]:
        """Return the commands that wait for an answer, each with its sequence."""
        return self.control.pending(self.through)

    def answered(self, sequence: int) -> None:
        """Note that this command, and all before it, are answered."""
        self._last.answered(sequence)
