"""Errors that only the commands raise."""

from shared.errors import DuramenError, UsageError


class NotObserved(DuramenError):
    """The command was accepted and stored, but its effect has not been observed yet."""

    exit_code = 3
    next_step = "duramen status"


class ServiceUnavailable(DuramenError):
    """A service of ours does not answer over HTTP."""

    exit_code = 6
    next_step = "duramen doctor"


class TargetNotEmpty(UsageError):
    """The target folder is not empty; nothing was written."""
