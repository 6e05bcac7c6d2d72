"""How long a service has been silent, by the clock of this host and that of the bus."""

from shared.protocol.names import now
from shared.protocol.observed import Observed

QUIET_SECONDS = 60.0  # a service shows itself every five or ten seconds


def age_of(said: Observed) -> float:
    """Return how many seconds ago a service said something; never less than 0."""
    return max(0.0, (now() - said.at).total_seconds())


def is_stale(said: Observed) -> bool:
    """Return whether a service has been silent for so long that something is wrong with it."""
    return age_of(said) > QUIET_SECONDS
