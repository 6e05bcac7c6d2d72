"""The shape and the layers of a base, read from the headers of its files in a store."""

import json
from typing import Any

from shared.formats.base_layers import BaseLayers, layers_in
from shared.formats.model_files import INDEX, read_header, weights_of
from shared.memory_estimate import Shape, shape_of
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store


def shape_in_store(store: Store, root: str) -> Shape:
    """Return the shape of a stored base, from its config.json and the headers of its weights.

    Raises UsageError, StoreUnavailable, ObjectMissing.
    """
    return shape_of(*config_and_headers(store, root))


def layers_in_store(store: Store, root: str) -> BaseLayers:
    """Return the layers of a stored base. Raises UsageError, StoreUnavailable, ObjectMissing."""
    return layers_in(*config_and_headers(store, root))


def config_and_headers(store: Store, root: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return config.json of a base, and the headers of its weights."""
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
    return json.loads(store.read(PRECIOUS, layout.base_file(root, "config.json"))), headers
