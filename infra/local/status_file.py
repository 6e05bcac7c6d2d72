"""The file in which the supervisor says how the embedded run is, also when its disk is full."""

import json
from pathlib import Path
from typing import Any

from shared.files import write_synced

PAGE_BYTES = 4096


def write_status(path: Path, status: dict[str, Any]) -> bool:
    """Write `status` as JSON; return False if the disk does not even take it in place.

    The file fills whole blocks, which can be written over where there is no space for new ones.
    """
    text = json.dumps(status).encode()
    padded = text.ljust(-(-len(text) // PAGE_BYTES) * PAGE_BYTES)
    try:
        write_synced(path, padded)
    except OSError:
        return _write_over(path, padded)
    return True


def _write_over(path: Path, padded: bytes) -> bool:
    try:
        with path.open("r+b", buffering=0) as file:
            file.write(padded)
            file.truncate()
    except OSError:
        return False
    return True
