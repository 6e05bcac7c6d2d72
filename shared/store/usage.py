"""Who uses the space of a place, as far as its listing tells: bytes by what they are. Blocking."""

from collections import Counter

from shared.store import layout
from shared.store.place import PRECIOUS, WORK, Place
from shared.store.s3 import Store

OF_PREFIX = {
    layout.DATASETS: "datasets",
    layout.EVAL: "datasets",
    layout.PLANS: "datasets",
    layout.BASES: "bases",
    layout.CATALOG: "versions",
    layout.LINEAGES: "versions",
}


def bytes_kept(place: Place) -> dict[str, int]:
    """Return the bytes of the precious objects in a place, by what they are."""
    found: Counter[str] = Counter()
    for version in place.versions(PRECIOUS, ""):
        prefix = version.key.partition("/")[0] + "/"
        found[OF_PREFIX.get(prefix, "other")] += version.size
    return dict(found)


def bytes_stored(store: Store) -> dict[str, int]:
    """Return the bytes of all objects in the store; those of the bucket `work` as `work/KIND`."""
    found = Counter(bytes_kept(store))
    for key, _, size in store.dated(WORK, ""):
        found[f"work/{key.partition('/')[0]}"] += size
    return dict(found)
