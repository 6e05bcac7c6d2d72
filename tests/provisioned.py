"""A home that the bootstrap provisioned once: servers over copies of it need not be provisioned."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from tests.stack import Stack

KEPT = ("secrets", "nats", "store", "backup")


@functools.cache
def provisioned() -> Path:
    """Return the root of a home whose servers were provisioned and ended, the same each time."""
    root = Path(tempfile.mkdtemp(prefix="duramen-home-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    stack = Stack(root)
    try:
        stack.up()
    finally:
        stack.down()
    return root


def copy_provisioned(root: Path) -> None:
    """Copy a provisioned home into `root`. Raises ServerMissing."""
    for name in KEPT:
        shutil.copytree(provisioned() / name, root / name, dirs_exist_ok=True)
