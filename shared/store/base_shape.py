"""The shape of a base, read from the headers of its files in a store."""

import json

from shared.formats.model_files import INDEX, read_header, weights_of
from shared.memory_estimate import Shape, shape_of
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store


def shape_in_store(store: Store, root: str) -> Shape:
    """Return the shape of a stored base, from its config.json and the headers of its weights.

    Raises UsageError, StoreUnavailable, ObjectMissing.
    """
    prefix = layout.base_files(root)
    headers = []
    names = {key.removeprefix(prefix) for key in store.keys(PRECIOUS, prefix)}
    index = store.read(PRECIOUS, prefix + INDEX) if INDEX in names else None
    for name in sorted(weights_of(names, index) & names):
        response = store.open(PRECIOUS, prefix + name)
        try:
            headers.append(read_header(response, name))
        finally:
            response.close()
            response.release_conn()
    return shape_of(
        json.loads(store.read(PRECIOUS, layout.base_file(root, "config.json"))), headers
    )
