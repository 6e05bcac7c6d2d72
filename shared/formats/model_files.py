"""The files of a model folder: safetensors headers and the index of a split model."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from shared.errors import MALFORMED, UsageError

INDEX = "model.safetensors.index.json"  # which tensor lies in which file

WHOLE = "model.safetensors"  # of a model in one part, which has no index

MAX_HEADER_BYTES = 16 << 20  # parsed, one takes eight times as much: the vault has 1 GiB
MAX_DIMENSIONS = 64  # as in torch; many long numbers would take hours to multiply
METADATA = "__metadata__"
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


class Readable(Protocol):
    """A file, or the body of an answer that can be read once."""

    def read(self, count: int, /) -> bytes: ...


def read_header(
    file: Readable, name: str, size: int | None = None, *, whole: bool = False
) -> dict[str, Any]:
    """Return the tensors of a safetensors file by name, with their `shape` (and other fields).

    Reads only the header, which may come from a stranger. `size`: bytes of the file, if known.
    `whole`: the tensors must fill the file. Raises UsageError for any other file.
    """
    try:
        length = int.from_bytes(read_exactly(file, 8), "little")
        most = MAX_HEADER_BYTES if size is None else min(MAX_HEADER_BYTES, size - 8)
        if not 2 <= length <= most:
            raise UsageError(f"{name}: its header claims {length} bytes of {size or most}.")
        found = json.loads(read_exactly(file, length))
        if not isinstance(found, dict):
            raise UsageError(f"{name}: its header is not an object.")
        tensors = {tensor: entry for tensor, entry in found.items() if tensor != METADATA}
        for tensor, entry in tensors.items():
            if not is_shape(entry["shape"]):
                raise UsageError(f"{name}: {tensor} has a shape that is not one of a tensor.")
        if whole and size is not None:
            check_places(tensors, size - 8 - length, name)
    except MALFORMED as error:
        why = str(error) or type(error).__name__
        raise UsageError(f"{name}: its header cannot be read: {why}") from error
    return tensors


def is_shape(shape: object) -> bool:
    """Return whether this is a list of sizes that can be multiplied without harm."""
    return (
        isinstance(shape, list)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
    )


def read_exactly(file: Readable, count: int) -> bytes:
    """Return exactly `count` bytes. Raises ValueError if there are fewer."""
    parts = []
    while count > 0:
        block = file.read(count)
        if not block:
            raise ValueError("it ends too early")
        parts.append(block)
        count -= len(block)
    return b"".join(parts)


def check_places(tensors: Mapping[str, Any], data_bytes: int, name: str) -> None:
    """Raise UsageError unless the tensors fill `data_bytes` one after another.

    Each must be as long as its type and shape say.
    """
    spans = []
    for tensor, entry in tensors.items():
        begin, end = entry["data_offsets"]
        width, count = DTYPE_BYTES.get(entry["dtype"]), math.prod(entry["shape"])
        if width is not None and end - begin != count * width:
            raise UsageError(f"{name}: {tensor} takes {end - begin} bytes, not as its shape says.")
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at or end < begin:
            raise UsageError(f"{name}: its tensors overlap or leave a gap at byte {at}.")
        at = end
    if at != data_bytes:
        raise UsageError(f"{name} is cut off: tensors end at {at}, the file at {data_bytes}.")


def weights_of(names: Collection[str], index: bytes | None) -> set[str]:
    """Return those files of a model that its weights are read from.

    A second copy of the same weights (`consolidated.safetensors`) is not among them. `index` is the
    content of INDEX, None without it.

    Raises ValueError. A file that the index names may be missing from `names`.
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
    """Return the content of INDEX in a folder, or None if there is none. Raises OSError."""
    return (folder / INDEX).read_bytes() if (folder / INDEX).is_file() else None
