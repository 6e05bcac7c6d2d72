"""Versions without a ledger, which places kept while the bus was lost or replaced."""

from services.vault.copies import Copies
from shared.errors import StoreUnavailable
from shared.ledger.jobs import Table
from shared.protocol.observed import EXPORT_PLACE
from shared.store import layout
from shared.store.place import PRECIOUS, Place


class Orphans:
    """The lineages that each place has commit records of. Blocking.

    `due`: the places should be read, because they never were, one was away, or time has passed.
    `bus_went_back`: the bus lacks records that were exported, so no ledger on it can be trusted.
    """

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._held: dict[str, set[str]] = {}  # by place
        self.due = True
        self.bus_went_back = False

    def read(self) -> None:
        """List the catalogs of all places; one that is away keeps what it was known to hold."""
        found = self._copies.everywhere(lineages_in)
        self._held |= {place: names for place, names in found.items() if names is not None}
        self.due = None in found.values()

    @property
    def unseen(self) -> list[str]:
        """The places that could not be listed since this service was started."""
        return sorted({place.name for place in self._copies.places} - self._held.keys())

    def beside(self, table: Table) -> dict[str, list[str]]:
        """Return the lineages with versions in places but none in the ledger, with these places.

        The table must have been updated after `read`, because a close is older than its commit.
        """
        numbered = {name for name, line in table.lines.items() if line.versions}
        lineages = sorted(set().union(*self._held.values()) - numbered)
        return {
            lineage: sorted(place for place, names in self._held.items() if lineage in names)
            for lineage in lineages
        }

    def behind(self, table: Table) -> dict[str, list[str]]:
        """Return every lineage of a bus that went back, with the export as what knows more."""
        return {lineage: [EXPORT_PLACE] for lineage in table.lines} if self.bus_went_back else {}


def lineages_in(place: Place) -> set[str] | None:
    """Return the lineages that a place has commit records of; None while it is away."""
    try:
        keys = list(place.keys(PRECIOUS, layout.CATALOG))
    except StoreUnavailable:
        return None
    return {commit.lineage for commit in map(layout.parse_commit, keys) if commit}
