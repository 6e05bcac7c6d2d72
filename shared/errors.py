"""Every error that a user or another service can meet, one class for each.

The class docstring is the default message. Typed fields come first, and the message is made from
them. `next_step` is the command that a user would type next; it ends the message.
"""

from typing import ClassVar, Literal, NamedTuple

START = "make local, or make up"  # what to type where nothing runs


class DuramenError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1
    next_step: str = ""

    def __init__(self, message: str = "", *, next_step: str = "") -> None:
        text = message or (type(self).__doc__ or "").splitlines()[0]
        # Names and contents of others may hold lone surrogates, which no record can.
        text = text.encode("utf-8", "replace").decode()
        self.said = text  # without the next step
        self.next_step = next_step or self.next_step
        super().__init__(text + (f"  Next: {self.next_step}" if self.next_step else ""))


# What a reader raises that was given something malformed, where nothing else was foreseen.
MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RecursionError, MemoryError),
)


class UsageError(DuramenError):
    """The request cannot be carried out as it was written."""

    exit_code = 2


class UnknownSettings(DuramenError):
    """The environment or .env has settings that nothing reads."""

    exit_code = 2
    next_step = "correct it in .env or the environment; docs/settings.md lists all settings"

    def __init__(self, wrong: list[str]) -> None:
        self.wrong = wrong
        super().__init__(f"{'; '.join(wrong)}.")


class NotFound(DuramenError):
    """What you named does not exist."""

    exit_code = 4


class Conflict(DuramenError):
    """Another process changed this first."""

    exit_code = 5

    def __init__(self, subject: str, expected: int) -> None:
        self.subject, self.expected = subject, expected
        super().__init__(
            f"{subject} was changed by another process in the meantime (it is no longer at "
            f"sequence {expected}). Nothing was written; try again."
        )


class BusUnavailable(DuramenError):
    """The bus does not answer."""

    exit_code = 6
    next_step = "duramen doctor"


class BusWentBack(DuramenError):
    """The bus has lost records that it had acknowledged; all writers stop."""

    exit_code = 7

    def __init__(self, stream: str, sequence: int) -> None:
        self.stream, self.sequence = stream, sequence
        super().__init__(
            f"Stream {stream} no longer holds sequence {sequence} as it was acknowledged: the bus "
            "was restored from an older copy, or cut. Nothing is written until this is settled.",
            next_step="duramen check, then duramen recover",
        )


class DiskFull(DuramenError):
    """A disk is full. What needs space on it waits until there is some."""

    exit_code = 6


class BusFull(DuramenError):
    """A stream has reached its size limit."""

    exit_code = 6
    next_step = "raise max_bytes in infra/servers/streams.py, then make up or make local"


class UnknownSchema(DuramenError):
    """The record was written by a newer version of this program."""

    def __init__(self, where: str, schema: object) -> None:
        self.where, self.schema = where, schema
        super().__init__(
            f"{where} has schema {schema!r}; this program reads only schema 1. It was written by "
            "a newer version."
        )


class StoreUnavailable(DuramenError):
    """The store does not answer."""

    exit_code = 6
    next_step = "duramen doctor"


class Location(NamedTuple):
    """The place of an object. A file outside all stores has neither place nor bucket."""

    place: str  # store, backup or archive
    bucket: str
    key: str

    def __str__(self) -> str:
        path = f"{self.bucket}/{self.key}" if self.bucket else self.key
        return f"{self.place}: {path}" if self.place else path


class ObjectMissing(NotFound):
    """An object is not in the store."""

    def __init__(self, store: str, bucket: str, key: str) -> None:
        self.where = Location(store, bucket, key)
        super().__init__(f"{self.where} does not exist.")


class ObjectDamaged(DuramenError):
    """The bytes of an object are not the ones that were written.

    `as_sent`: they were wrong already on their way there, so the copy there is not to blame.
    """

    exit_code = 8

    def __init__(
        self, where: Location, expected: str, found: str, *, as_sent: bool = False
    ) -> None:
        self.where, self.expected, self.found, self.as_sent = where, expected, found, as_sent
        how = " (as sent)" if as_sent else ""
        super().__init__(f"{where}{how}: SHA-256 is {found[:16]}…, expected {expected[:16]}….")


class AlreadyExists(DuramenError):
    """The name is already taken by different bytes."""

    def __init__(self, where: Location) -> None:
        self.where = where
        super().__init__(f"{where} already exists with different bytes.")


class LoopHangs(DuramenError):
    """A service loop is stuck."""

    def __init__(self, loop: str, seconds: float) -> None:
        self.loop, self.seconds = loop, seconds
        super().__init__(f"The loop {loop} has made no progress for {seconds:.0f} s.")


FailureKind = Literal[
    "nan", "mask", "template", "memory", "disk", "data", "checkpoint", "base", "internal"
]


class CannotTrain(Exception):
    """The job cannot continue.

    `suspect`: what was trained so far may be unusable. `final`: a smaller micro-batch would not
    help.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        suspect: bool = False,
        example: str | None = None,
        final: bool = True,
    ) -> None:
        # Templates and rows may hold lone surrogates, which no JSON line and no record can.
        self.message = message.encode("utf-8", "replace").decode()
        super().__init__(self.message)
        self.kind: FailureKind = kind
        self.suspect = suspect
        self.example = example
        self.final = final
