"""Fixtures that every test may use. Servers are real; where one is missing, see `stack`."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local.servers import ServerMissing
from tests.servers import Stack

STARTING = {"stack", "own_stack", "bare_stack", "job"}  # fixtures that start servers or a worker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts servers or a worker."""
    for item in items:
        if not STARTING.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@contextmanager
def running_stack(
    *, provision: bool = True, fill: Callable[[Path], object] | None = None
) -> Iterator[Stack]:
    """Servers over an empty folder, or over what `fill` lays into it first."""
    # A short path: unix sockets and some of the servers' names do not fit under pytest's own.
    root = Path(tempfile.mkdtemp(prefix="duramen-test-"))
    made: Stack | None = None
    try:
        if fill is not None:
            fill(root)
        made = Stack(root)
        yield made.up(provision=provision)
    except ServerMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    finally:
        if made is not None:
            made.down()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Servers shared by all tests of this process: use fresh lineages and keys, kill nothing."""
    with running_stack() as running:
        yield running


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Servers of this test alone, to be killed and restarted at will."""
    with running_stack() as running:
        yield running


@pytest.fixture
def bare_stack() -> Iterator[Stack]:
    """Servers of this test alone, on which no bootstrap ran."""
    with running_stack(provision=False) as running:
        yield running


@pytest.fixture
def lineage() -> str:
    """A lineage name that nobody else uses."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def kill_seed() -> int:
    """Return the seed of the moments at which a test kills; KILL_SEED repeats those of a run."""
    return int(os.environ.get("KILL_SEED", "11"))
