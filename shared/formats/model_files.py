"""The files of a model folder: safetensors headers and the index of a split model."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from shared.errors import UsageError

INDEX = "model.safetensors.index.json"  # which tensor lies in which file

WHOLE = "model.safetensors"  # of a model in one part, which has no index

HEADER_LIMIT = 100 << 20


def read_header(first: bytes, read: Any) -> dict[str, Any]:
    """A safetensors header: `first` are its 8 bytes of length, `read(n)` gives what follows."""
    length = int.from_bytes(first, "little")
    if len(first) != 8 or length > HEADER_LIMIT:
        raise UsageError("The weights are not a safetensors file.")
    try:
        found = json.loads(read(length))
    except ValueError as error:
        raise UsageError(f"The header of the weights cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError("The header of the weights is not a JSON object.")
    return found


def weights_of(names: Collection[str], index: bytes | None) -> set[str]:
    """Of a model's files those that its weights are read from; the same ones once more beside them
    (`consolidated.safetensors`) are not. `index`: what INDEX holds, None without it.

    Raises ValueError; what an index names may be missing among the `names`.
    """
    if index is None:
        found = {name for name in names if name.endswith(".safetensors")}
        return {WHOLE} if WHOLE in found else found
    read = json.loads(index)
    parts = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
        raise ValueError(f"{INDEX} does not name any weights")
    return set(parts.values())


def index_in(folder: Path) -> bytes | None:
    """Raises OSError."""
    return (folder / INDEX).read_bytes() if (folder / INDEX).is_file() else None
