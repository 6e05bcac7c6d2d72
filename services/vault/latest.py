"""`latest`: the version that users load. A lower ledger sequence never replaces a higher one."""

from services.vault.copies import Copies
from shared.errors import Conflict
from shared.formats.canonical import canonical_json
from shared.formats.version import Latest
from shared.ledger.lineage import Line
from shared.store import layout
from shared.store.place import PRECIOUS, Place

ATTEMPTS = 20


def wanted_latest(line: Line, committed: set[int]) -> Latest | None:
    """Return what `latest` should be: the newest committed version in the head's ancestry.

    Its sequence is that of the version's close or of the last rollback, whichever is later. Returns
    None if there is no such version, or if it is older than the target of the last rollback.
    """
    marks = set(line.ancestry())
    closes = {v: at for v, at in line.versions.items() if v in committed and at in marks}
    floor, rolled_back_at = 1, 0
    if line.rollbacks:  # `latest` never goes below the target of the last one
        rolled_back_at, record = line.rollbacks[-1]
        floor = record.version
    version = max(closes, default=0)
    if version < floor:
        return None
    cause = max(closes[version], rolled_back_at)
    return Latest(lineage=line.lineage, version=version, ledger_sequence=cause)


def read_latest(place: Place, lineage: str) -> Latest | None:
    """Return `latest` as a place has it; one that cannot be read counts as none.

    Such a one is replaced by the next move.
    """
    found = place.read_newest(PRECIOUS, layout.latest(lineage))
    return latest_from(found[0]) if found else None


def latest_from(data: bytes) -> Latest | None:
    try:
        return Latest.model_validate_json(data)
    except ValueError:
        return None


def move_latest(place: Place, latest: Latest) -> bool:
    """Move `latest` in one place by compare-and-swap; False if it is already there or beyond.

    Raises Conflict if another process changes it each time.
    """
    data = canonical_json(latest.model_dump(mode="json")) + b"\n"
    for _ in range(ATTEMPTS):
        found = place.read_newest(PRECIOUS, layout.latest(latest.lineage))
        current = latest_from(found[0]) if found else None
        if current is not None and current.ledger_sequence >= latest.ledger_sequence:
            return False
        if place.swap(PRECIOUS, layout.latest(latest.lineage), data, found[1] if found else None):
            return True
    raise Conflict(f"{place.name}: {layout.latest(latest.lineage)}", latest.ledger_sequence)


def move_all(copies: Copies, latest: Latest) -> dict[str, bool]:
    """Move `latest` in all three places; return by place whether it moved."""
    return copies.everywhere(lambda place: move_latest(place, latest))
