"""The last one-time command that a service has answered, as it said on the bus and kept on disk."""

from pathlib import Path

from shared.bus.client import Bus
from shared.foreign.state_file import keep_number, kept_number, note_lost
from shared.ledger.control import answered_through, unknown_words
from shared.service_names import Service


class LastAnswer:
    """The sequence of the last command that this instance has answered; -1 before `recall`."""

    def __init__(self, bus: Bus, service: Service, instance: str, note: Path) -> None:
        self.sequence = -1
        self._bus, self._service, self._instance, self._note = bus, service, instance, note

    async def recall(self, newest: int, said: int = 0) -> None:
        """Learn the sequence, once: from the note on disk, and from what the service said.

        `newest` is the last sequence of stream CTL that was read, and `said` what an event says.
        Where all is lost and the service's own words cannot be read, every command up to `newest`
        counts as answered, which becomes an alarm: none may be carried out twice. Raises
        BusUnavailable.
        """
        if self.sequence >= 0:
            return
        seen = await answered_through(self._bus, self._service, self._instance)
        known = max(kept_number(self._note), said, seen)
        if known <= 0 and newest > 0 and await unknown_words(self._bus, self._service):
            known = newest
            why = f"what the {self._service} answered last cannot be read: commands up to {newest}"
            note_lost(f"commands of the {self._service}", f"{why} are not carried out")
        self.sequence = min(known, newest)

    def answered(self, sequence: int) -> None:
        """Note that this command, and all before it, are answered."""
        self.sequence = sequence
        keep_number(self._note, sequence)
