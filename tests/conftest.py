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
from tests.ahead import Ahead
from tests.provisioned import copy_provisioned
from tests.stack import Stack

STARTING = {"stack", "own_stack", "bare_stack", "job"}  # fixtures that start servers or a worker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts servers or a worker, and let the longest begin first.

    Then short tests are left at the end, which several processes finish together.
    """
    for item in items:
        if not STARTING.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    items.sort(key=lambda item: (not wants_own(item), item.get_closest_marker("slow") is None))


def started_stack() -> Stack:
    """Start servers over a provisioned home; whoever gets them ends them."""
    root = Path(tempfile.mkdtemp(prefix="duramen-test-"))
    copy_provisioned(root)
    stack = Stack(root)
    try:
        return stack.up(provision=False)
    except BaseException:
        remove(stack)
        raise


def remove(stack: Stack) -> None:
    stack.down()
    shutil.rmtree(stack.home.root, ignore_errors=True)


AHEAD = Ahead(started_stack)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Begin to start the own servers of the next test, if it wants some."""
    if wants_own(nextitem):
        AHEAD.begin(1 + wants_own(item))


def wants_own(item: pytest.Item | None) -> bool:
    return "own_stack" in getattr(item, "fixturenames", ())


def pytest_sessionfinish() -> None:
    """End the servers that were started for a test that did not come."""
    for stack in AHEAD.end():
        remove(stack)


@contextmanager
def running_stack(
    fill: Callable[[Path], object] = copy_provisioned, *, provision: bool = False
) -> Iterator[Stack]:
    """Servers over a provisioned home, or over what `fill` lays into a folder."""
    # A short path: unix sockets and some of the servers' names do not fit under pytest's own.
    root = Path(tempfile.mkdtemp(prefix="duramen-test-"))
    made: Stack | None = None
    try:
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
    try:
        running = AHEAD.take()
    except ServerMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield running
    remove(running)


@pytest.fixture
def bare_stack() -> Iterator[Stack]:
    """Servers of this test alone, on which no bootstrap ran."""
    with running_stack(lambda root: None) as running:
        yield running


@pytest.fixture
def lineage() -> str:
    """A lineage name that nobody else uses."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def kill_seed() -> int:
    """Return the seed of the moments at which a test kills; KILL_SEED repeats those of a run."""
    return int(os.environ.get("KILL_SEED", "11"))
