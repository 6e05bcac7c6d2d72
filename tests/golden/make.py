"""Write the golden files: `python -m tests.golden.make`. Run it at the commit README.md names.

It refuses to write over what is there: a stored byte that changes is a fault, not a new truth. Add
a kind by building it in messages.py or files.py; only what is missing is written.
"""

import sys
import tempfile
from pathlib import Path

from tests.golden import files, messages
from tests.golden.files import STORED


def wanted(folder: Path) -> dict[str, bytes]:
    """All golden files by path; `folder` is an empty place to work in."""
    parquet = files.snapshot(folder)
    return {
        **files.built(folder),
        "snapshot.parquet": parquet,
        "snapshot.txt": files.shape(parquet).encode(),
        **{f"messages/{name}.txt": data for name, data in spoken().items()},
    }


def spoken() -> dict[str, bytes]:
    """The messages of each stream, one a line."""
    streams = {
        "jobs": messages.jobs(),
        "commands": messages.commands(),
        "leases": messages.leases(),
        "events": messages.events(),
    }
    return {name: b"".join(sent.line for sent in stream) for name, stream in streams.items()}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        made = wanted(Path(folder))
    for name, data in made.items():
        path = STORED / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
