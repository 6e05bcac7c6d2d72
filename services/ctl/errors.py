"""Errors that only the commands raise."""

from shared.errors import DuramenError, Location, ObjectMissing, UsageError
from shared.foreign_text import one_line
from shared.store.place import PRECIOUS


class NotObserved(DuramenError):
    """The command was accepted and stored, but its effect has not been observed yet."""

    exit_code = 3
    next_step = "duramen status"


class ServiceUnavailable(DuramenError):
    """A service of ours does not answer over HTTP."""

    exit_code = 6
    next_step = "duramen doctor"


class OtherRecord(ObjectMissing):
    """A record is not of what its key says."""

    def __init__(self, store: str, key: str, of: str) -> None:
        self.where = Location(store, PRECIOUS, key)
        text = f"{self.where} is a record of {one_line(of)}, so it is not used."
        DuramenError.__init__(self, text)


class TargetNotEmpty(UsageError):
    """The target folder is not empty; nothing was written."""
