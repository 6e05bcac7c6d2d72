"""Control: what a service shall be (desired), what it shall do once, and what it is (observed).

Stream CTL is folded like JOBS: by valid records only. A command is durable before anybody says
"accepted"; its receipt is what the service then observes.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from shared.bus import Bus, Entry
from shared.errors import BusWentBack
from shared.jobs import Void, parse
from shared.messages import (
    Desired,
    DesiredState,
    Event,
    Observed,
    Once,
    desired_subject,
    observed_subject,
    once_subject,
)


@dataclass
class Control:
    """The commands for one service, as of the last folded entry of stream CTL, `seen`."""

    service: str
    desired: Desired | None = None
    generation: int = 0
    once: dict[int, Once] = field(default_factory=dict)
    voids: list[Void] = field(default_factory=list)
    seen: int = 0
    _valid: dict[str, int] = field(default_factory=dict)
    _tails: dict[str, int] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def state(self) -> DesiredState:
        return self.desired.state if self.desired else "running"

    async def update(self, bus: Bus) -> None:
        """Fold what is new. Raises BusWentBack, UnknownSchema."""
        async with self._lock:
            _, last = await bus.bounds("CTL")
            if last < self.seen:
                raise BusWentBack("CTL", self.seen)
            async for entry in bus.read_through("CTL", self.seen, last):
                self.fold(entry)

    def fold(self, entry: Entry) -> None:
        """Take one message of the stream, in sequence; those for other services pass by."""
        subject = entry.subject
        models = {desired_subject(self.service): Desired, once_subject(self.service): Once}
        if subject in models:
            before, valid = self._tails.get(subject, 0), self._valid.get(subject, 0)
            record = parse(entry, models[subject], before, valid)
            self._tails[subject] = entry.sequence
            self._take(entry, record)
        self.seen = entry.sequence

    def _take(self, entry: Entry, record: Desired | Once | str) -> None:
        """Note a record, or why there is none."""
        if isinstance(record, str):
            self.voids.append(Void(entry.sequence, entry.subject, record))
            return
        self._valid[entry.subject] = entry.sequence
        if isinstance(record, Desired):
            self.desired, self.generation = record, entry.sequence
        else:
            self.once[entry.sequence] = record

    async def set_desired(
        self, bus: Bus, state: DesiredState, by: str, reason: str = "", discard: str | None = None
    ) -> int:
        """Ask for a state; its generation. Raises Conflict if another command came between."""
        subject = desired_subject(self.service)
        record = Desired.model_validate(
            {
                "service": self.service,
                "state": state,
                "by": by,
                "reason": reason,
                "discard": discard,
                "prev": self._valid.get(subject, 0),
            }
        )
        return await bus.append("CTL", subject, subject, record, self._tails.get(subject, 0))

    async def ask_once(self, bus: Bus, command: Once) -> int:
        """Give a one-time command; its sequence. `command.prev` is filled in here."""
        subject = once_subject(self.service)
        record = command.model_copy(update={"prev": self._valid.get(subject, 0)})
        return await bus.append("CTL", subject, subject, record, self._tails.get(subject, 0))

    def pending(self, through: int) -> list[tuple[int, Once]]:
        """One-time commands after the last answered one, in sequence."""
        return sorted((at, once) for at, once in self.once.items() if at > through)


async def observed(bus: Bus, service: str) -> Observed | None:
    """What a service last said of itself; None if it never did or said nothing readable."""
    entry = await bus.last("OBS", observed_subject(service))
    if entry is None or entry.copied:
        return None
    try:
        return Observed.model_validate_json(entry.data)
    except ValidationError:
        return None


async def events(
    bus: Bus, after: int = 0, subject: str | None = None
) -> AsyncIterator[tuple[int, Event]]:
    """(sequence, event) after a sequence; what cannot be read as an event is passed over."""
    async for entry in bus.read("EVT", after, subject):
        try:
            yield entry.sequence, Event.model_validate_json(entry.data)
        except ValidationError:
            continue
