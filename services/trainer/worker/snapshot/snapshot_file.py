"""Snapshots on the worker's disk, and those of the bare base that later jobs take over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.files import sha256_bytes, write_synced
from shared.formats.snapshot_parquet import decode_exactly, encode_snapshot

KEPT_BASELINES = 20


def write_snapshot(
    path: Path, rows: Sequence[Mapping[str, Any]], decision: Mapping[str, Any]
) -> tuple[str, int]:
    """Write a snapshot; return its SHA-256 and size. Temporary name, sync, rename."""
    data = encode_snapshot(rows, decision)
    write_synced(path, data)
    return sha256_bytes(data), len(data)


def read_snapshot(path: Path) -> list[dict[str, Any]] | None:
    """Its rows; None if it is not a file of this program's."""
    try:
        return decode_exactly(path.read_bytes())
    except OSError:
        return None


def copy(path: Path, to: Path) -> None:
    """Keep a snapshot for later jobs, and of those the newest few."""
    write_synced(to, path.read_bytes())
    kept = sorted(to.parent.glob("*.parquet"), key=lambda p: p.stat().st_mtime)
    for old in kept[:-KEPT_BASELINES]:
        old.unlink(missing_ok=True)
