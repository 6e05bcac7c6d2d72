"""Checkpoints: everything that a bit-identical continuation needs, named by its content.

    00000340-1f9c2b7d10aa/
        adapter_model.safetensors   adapter_config.json   as peft reads them
        optimizer.safetensors       <name>.exp_avg, .exp_avg_sq, .step for each adapter tensor
        header.json                 canonical JSON; its SHA-256 is the checkpoint's id

A checkpoint is written under a temporary name, synced and renamed: a directory with a proper name
is whole. Randomness is a function of counters, so no generator state is kept. Works without torch.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from shared.errors import CannotTrain
from shared.files import whole_folder, write_synced
from shared.formats.adapter import Tensors
from shared.formats.checkpoint import (
    ADAPTER,
    ADAPTER_CONFIG,
    HEADER,
    OPTIMIZER,
    FileHash,
    Header,
    TensorHashes,
)

KEPT = 3  # local checkpoints of a segment


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    header: Header
    adapter: Tensors
    optimizer: Tensors


def write_checkpoint(
    directory: Path,
    header: Mapping[str, Any],
    adapter: Tensors,
    optimizer: Tensors,
    adapter_config: bytes,
) -> tuple[Path, Header]:
    """Write one checkpoint under `directory`; return its folder and its whole header.

    `header` lacks only `tensors` and `files`.
    """
    payload = {
        ADAPTER: save(dict(adapter), metadata={"format": "pt"}),
        ADAPTER_CONFIG: adapter_config,
        OPTIMIZER: save(dict(optimizer), metadata={"format": "pt"}),
    }
    files = {
        name: FileHash(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in payload.items()
    }
    hashes = TensorHashes(adapter=tensors_sha256(adapter), optimizer=tensors_sha256(optimizer))
    full = Header(**header, tensors=hashes, files=files)
    final = directory / f"{full.global_step:08d}-{full.id[:12]}"
    with whole_folder(final) as temporary:
        for name, data in {**payload, HEADER: full.to_bytes()}.items():
            write_synced(temporary / name, data)
        if final.exists():  # the same state was saved before; replace it, for it may be damaged
            shutil.rmtree(final)
    return final, full


def read_checkpoint_header(path: Path) -> Header:
    """Return the header of a checkpoint.

    Raises CannotTrain (checkpoint) if it cannot be read or is not canonical.
    """
    try:
        data = (path / HEADER).read_bytes()
        header = Header.from_bytes(data)
    except (OSError, ValueError) as error:
        raise checkpoint_damaged(path, f"its header cannot be read: {error}") from error
    if header.to_bytes() != data:
        raise checkpoint_damaged(path, "its header is not canonical")
    return header


def verify_checkpoint(path: Path) -> Header:
    """Check the hashes of all files and tensors; return the header.

    Raises CannotTrain (checkpoint) if one differs.
    """
    return load(path).header


def load(path: Path) -> Checkpoint:
    """Verify everything, then return the tensors; nothing is unpickled.

    Raises CannotTrain (checkpoint) if anything is damaged.
    """
    header = read_checkpoint_header(path)
    for name, contents in header.files.items():
        if name != Path(name).name:
            raise checkpoint_damaged(path, f"it names a file outside itself: {name}")
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise checkpoint_damaged(path, str(error)) from error
        if len(data) != contents.size or hashlib.sha256(data).hexdigest() != contents.sha256:
            raise checkpoint_damaged(path, f"{name} is not what was written")
    adapter, optimizer = load_file(path / ADAPTER), load_file(path / OPTIMIZER)
    found = TensorHashes(adapter=tensors_sha256(adapter), optimizer=tensors_sha256(optimizer))
    if found != header.tensors:
        raise checkpoint_damaged(path, "its tensors do not hash to what its header says")
    return Checkpoint(header, adapter, optimizer)


def adapter_names(path: Path) -> list[str]:
    """Return the names of the adapter's tensors, unverified; none if they cannot be read."""
    try:
        with safe_open(path / ADAPTER, framework="numpy") as file:
            return list(file.keys())
    except (OSError, SafetensorError):
        return []


def of_segment(directory: Path, segment: str) -> list[tuple[Path, Header]]:
    """Return all checkpoints of this segment with a readable header, newest first."""
    found = []
    for path in directory.glob("[0-9]*-*"):
        try:
            header = read_checkpoint_header(path)
        except CannotTrain:
            continue
        if header.segment == segment:
            found.append((path, header))
    return sorted(found, key=lambda entry: entry[1].age, reverse=True)


def prune_checkpoints(directory: Path, segment: str, keep: Path | None = None) -> None:
    """Remove all but the segment's newest three that are whole by their sizes, and `keep`."""
    whole = 0
    for path, header in of_segment(directory, segment):
        if all(is_size(path / n, c.size) for n, c in header.files.items()):
            whole += 1
        if whole > KEPT and path != keep:
            # Renamed first, so that a half-deleted folder never has a checkpoint's name.
            doomed = path.with_name(f".{path.name}.doomed")
            path.rename(doomed)
            shutil.rmtree(doomed)


def sweep_half_written(directory: Path) -> None:
    """Remove files that a killed worker left half written or half deleted."""
    for pattern in (".*.tmp", ".*.doomed"):
        for path in directory.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def tensors_sha256(tensors: Tensors) -> str:
    """Return the SHA-256 of the tensors, sorted by name.

    It covers name, dtype, shape and little-endian bytes of each.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        shape = "x".join(str(n) for n in tensors[name].shape)
        digest.update(f"{name}\0{array.dtype.name}\0{shape}\0".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def difference(header: Header, expected: Mapping[str, Any]) -> list[str]:
    """Return one line for each field of the header that is not as expected."""
    return [
        f"{name}: the checkpoint has {getattr(header, name)}, this run has {value}"
        for name, value in expected.items()
        if getattr(header, name) != value
    ]


def is_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def checkpoint_damaged(path: Path, reason: str) -> CannotTrain:
    return CannotTrain("checkpoint", f"The checkpoint {path.name} cannot be used: {reason}.")
