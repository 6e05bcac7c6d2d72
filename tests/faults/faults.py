"""The faults: what is done to a run, and what ends it."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from shared.store import layout
from shared.store.place import PRECIOUS
from tests.faults.run import PLACES, ROOMY, STATES, Run, fill, resize

SERVERS = {"bus": "nats", "store": "store", "backup": "backup"}
WIPED = {"archive": "archive", "backup": "backup", "bus": "nats", "store": "store"}
AHEAD = "+20m"


@dataclass(frozen=True)
class Fault:
    """A name, what breaks a run until the block ends, and how the commands are started."""

    name: str
    broken: Callable[[Run], AbstractContextManager[None]]
    before: tuple[str, ...] = ()


@contextmanager
def full(folder: Callable[[Run], Path], run: Run) -> Iterator[None]:
    fill(folder(run))
    try:
        yield
    finally:
        resize(folder(run), ROOMY)


@contextmanager
def beset(program: str, how: signal.Signals, run: Run) -> Iterator[None]:
    with run.beset(program, how):
        yield


@contextmanager
def wiped(folder: str, run: Run) -> Iterator[None]:
    """A place that is empty after a restart; what was there comes back with the next one."""
    place, aside = run.home.root / folder, run.home.root / "aside"
    run.stop()
    shutil.copytree(place, aside, copy_function=shutil.copy2)
    empty(place)
    run.start()
    try:
        yield
    finally:
        run.stop()
        empty(place)
        shutil.copytree(aside, place, dirs_exist_ok=True)
        shutil.rmtree(aside)
        run.start()


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def poisoned(what: Callable[[Run], object], run: Run) -> Iterator[None]:
    what(run)
    yield


@contextmanager
def slow_line(run: Run) -> Iterator[None]:
    run.stop()
    run.start_other("tests.faults.proxy")
    try:
        yield
    finally:
        run.stop()
        run.start()


@contextmanager
def nothing(_run: Run) -> Iterator[None]:
    yield


def diverges(run: Run) -> None:
    run.drop(learning_rate=1e30)


def half_a_file(run: Run) -> None:
    (run.home.inbox / "half.jsonl").write_bytes(b'{"messages": [{"role": "us')


def lost_rows(run: Run) -> None:
    """Delete the newest dataset from the store while its job waits."""
    assert run.duramen("pause").status == 0
    queued = run.jobs()
    run.drop()
    run.until(lambda: run.jobs() > queued, 60, "the file is queued")
    store = run.store()
    objects = store.list_objects(PRECIOUS, layout.DATASETS, recursive=True)
    newest = max(objects, key=lambda found: found.last_modified or datetime.min.replace(tzinfo=UTC))
    store.remove_object(PRECIOUS, str(newest.object_name))
    assert run.duramen("resume").status == 0


def state_of(service: str, run: Run) -> Path:
    return run.home.state(service)


def folder_of(name: str, run: Run) -> Path:
    return run.home.root / name


FAULTS = (
    *(Fault(f"{n}: disk full", partial(full, partial(folder_of, n))) for n in PLACES),
    *(Fault(f"state of {n}: disk full", partial(full, partial(state_of, n))) for n in STATES),
    *(Fault(f"{n}: dead", partial(beset, p, signal.SIGKILL)) for n, p in SERVERS.items()),
    *(Fault(f"{n}: hung", partial(beset, p, signal.SIGSTOP)) for n, p in SERVERS.items()),
    *(Fault(f"{n}: dead", partial(beset, n, signal.SIGKILL)) for n in STATES),
    *(Fault(f"{n}: hung", partial(beset, n, signal.SIGSTOP)) for n in STATES),
    Fault("store: slow line, 0.5 s for each 8 KiB", slow_line),
    Fault("a file whose job diverges", partial(poisoned, diverges)),
    Fault("half a file in the inbox", partial(poisoned, half_a_file)),
    Fault("clock of the user's host 20 minutes ahead", nothing, ("faketime", AHEAD)),
    Fault("rows of a queued job gone from the store", partial(poisoned, lost_rows)),
    # Last, since what they leave behind is seen by those that follow.
    *(Fault(f"{n}: wiped", partial(wiped, f)) for n, f in WIPED.items()),
)
