"""Fixtures that every test may use. Servers are real; where one is missing, see `stack`."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from infra.local.servers import ServerMissing
from tests.ahead import Ahead
from tests.provisioned import copy_provisioned
from tests.shares import shared_out
from tests.stack import Stack

settings.load_profile("ci")  # without a deadline for each example, which a busy machine misses

STARTING = {"stack", "own_stack", "bare_stack", "job"}  # fixtures that start servers or a worker


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark as slow what starts servers or a worker, and share it out among the processes."""
    for item in items:
        if not STARTING.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    yield  # what is not wanted is left out
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = shared_out(items, shares, weight_of, lambda item: item.path)


def weight_of(item: pytest.Item) -> int:
    """Return about how long a test takes: 0 for a moment, or for one that is skipped."""
    if item.get_closest_marker("slow") is None or "compose" in item.path.parts:
        return 0
    return 4 if wants_own(item) else 1


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
