"""The orders of users to this trainer: the desired state, and one-time commands that wait."""

from pathlib import Path

from shared.bus.client import Bus
from shared.ledger.control import Control, answered_through
from shared.ledger.invalid import VoidTeller
from shared.protocol.control import Once


class Orders:
    """The commands for trainers. `through`: the last one that this trainer has answered."""

    def __init__(self, bus: Bus, instance: str, told: Path) -> None:
        self.control = Control("trainer")
        self.through = -1  # not asked for yet
        self._bus, self._instance = bus, instance
        # It reports invalid records among its own commands; the vault reports the rest.
        self._voids = VoidTeller(bus, "trainer", "CTL", told)

    @property
    def state(self) -> str:
        """The desired state."""
        return self.control.state

    async def refresh(self) -> None:
        """Read what is new on the bus."""
        await self.control.update(self._bus)
        if self.through < 0:
            self.through = await answered_through(self._bus, "trainer", self._instance)
        await self._voids.tell(self.control.voids)

    def pending(self) -> list[tuple[int, Once]]:
        """Return the commands that wait for an answer, each with its sequence."""
        return self.control.pending(self.through)

    def answered(self, sequence: int) -> None:
        """Note that this command, and all before it, are answered."""
        self.through = sequence
