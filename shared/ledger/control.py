"""The control of services: the desired state, one-time commands, and the observed state.

Stream CTL is folded like JOBS: only valid records count. A command is durable before anybody says
"accepted"; its receipt is what the service then observes.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from shared.bus.client import Bus
from shared.bus.entry import Entry
from shared.errors import BusWentBack
from shared.ledger.jobs import Void, parse_record
from shared.protocol.control import Desired, Once
from shared.protocol.events import Answered, Event, parse_event
from shared.protocol.names import DesiredState, desired_subject, observed_subject, once_subject
from shared.protocol.observed import Observed


@dataclass
class Control:
    """The commands for one service, as of `seen`, the last folded entry of stream CTL."""

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
        """Fold all new messages. Raises BusWentBack, UnknownSchema."""
        async with self._lock:
            _, last = await bus.bounds("CTL")
            if last < self.seen:
                raise BusWentBack("CTL", self.seen)
            async for entry in bus.read_through("CTL", self.seen, last):
                self.fold(entry)

    def fold(self, entry: Entry) -> None:
        """Fold one message of the stream, in sequence; messages for other services are skipped."""
        subject = entry.subject
        models = {desired_subject(self.service): Desired, once_subject(self.service): Once}
        if subject in models:
            before, valid = self._tails.get(subject, 0), self._valid.get(subject, 0)
            record = parse_record(entry, models[subject], before, valid)
            self._tails[subject] = entry.sequence
            self._take(entry, record)
        self.seen = entry.sequence

    def _take(self, entry: Entry, record: Desired | Once | str) -> None:
        """Keep a record, or the reason why a message is not a valid one."""
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
        """Ask for a state; return its generation.

        Raises Conflict if another command came in between.
        """
        subject = desired_subject(self.service)
        record = Desired(
            service=self.service,
            state=state,
            by=by,
            reason=reason,
            discard=discard,
            prev=self._valid.get(subject, 0),
        )
        return await bus.append("CTL", subject, subject, record, self._tails.get(subject, 0))

    async def ask_once(self, bus: Bus, command: Once) -> int:
        """Give a one-time command; return its sequence. `command.prev` is filled in here."""
        subject = once_subject(self.service)
        record = command.model_copy(update={"prev": self._valid.get(subject, 0)})
        return await bus.append("CTL", subject, subject, record, self._tails.get(subject, 0))

    def pending(self, through: int) -> list[tuple[int, Once]]:
        """Return the one-time commands after sequence `through`, in sequence."""
        return sorted((at, once) for at, once in self.once.items() if at > through)


async def observed_all(bus: Bus, service: str) -> dict[str, Observed]:
    """Return what each instance of a service last said of itself, if it is readable.

    Before each instance had its own subject, all shared one: it counts until an instance has used
    its own.
    """
    newest = await newest_entries(bus, service)
    if not newest:
        old = await bus.last("OBS", f"ctl.observed.{service}")
        said = said_in(old) if old else None
        return {said.instance: said} if said else {}
    found = {instance: said_in(entry) for instance, entry in newest.items()}
    return {name: said for name, said in found.items() if said and said.instance == name}


async def newest_entries(bus: Bus, service: str) -> dict[str, Entry]:
    """Return the last message of each instance of a service, the most recent one last."""
    wildcard, found = observed_subject(service), dict[str, Entry]()
    newest = await bus.last("OBS", wildcard)
    last = newest.sequence if newest else 0
    async for entry in bus.read_through("OBS", 0, last, wildcard):
        instance = entry.subject.rpartition(".")[2]
        found.pop(instance, None)
        found[instance] = entry
    return found


async def unknown_words(bus: Bus, service: str) -> dict[str, str]:
    """Return, by instance, what a service said last in a form that is not known here.

    The text is as it was sent.
    """
    newest = (await newest_entries(bus, service)).items()
    return {
        instance: entry.data.decode(errors="replace")
        for instance, entry in newest
        if not entry.copied and said_in(entry) is None
    }


async def observed(bus: Bus, service: str) -> Observed | None:
    """Return what any instance of a service said last, or None if nothing is readable."""
    seen = await observed_all(bus, service)
    return max(seen.values(), key=lambda said: said.at, default=None)


async def answered_through(bus: Bus, service: str, instance: str) -> int:
    """Return the sequence of the last one-time command that was answered.

    This instance named it before it was last started. A new instance begins where the others are,
    so that what was answered long ago is not done again.
    """
    seen = await observed_all(bus, service)
    if instance in seen:
        return seen[instance].once_through
    return max((said.once_through for said in seen.values()), default=0)


def said_in(entry: Entry) -> Observed | None:
    """Return the observation in a message, or None if it is a copy or of an unknown form."""
    try:
        return None if entry.copied else Observed.model_validate_json(entry.data)
    except ValidationError:
        return None


async def events(
    bus: Bus, after: int = 0, subject: str | None = None
) -> AsyncIterator[tuple[int, Event]]:
    """Yield (sequence, event) after a sequence, skipping what cannot be read as an event."""
    async for entry in bus.read("EVT", after, subject):
        try:
            yield entry.sequence, Event.model_validate_json(entry.data)
        except ValidationError:
            continue


def sequence_of(answer: bytes) -> int:
    """Return the sequence of the command that an `answered` event answers; 0 if it names none."""
    try:
        answered = parse_event(Event.model_validate_json(answer))
    except ValueError:
        return 0
    return answered.sequence if isinstance(answered, Answered) else 0
