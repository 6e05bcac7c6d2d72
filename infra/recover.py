"""`python -m infra.recover --home DIR`: make the bus of an embedded run whole again.

It starts the servers alone, reads what was exported of the bus, says what it will do, and asks.
Versions, bases and data are not touched: the vault copies them once it runs.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.local.environment import process_environment, settings_for, with_user_settings
from infra.local.home import Home
from infra.local.lifecycle import NotStarted, make_ready, supervisor_pid
from infra.local.ports import Ports, PortTaken
from infra.local.programs import spawn
from infra.local.servers import Server, ServerMissing, servers
from infra.secrets.secrets import Secrets
from infra.servers.bootstrap import BootstrapSettings, bootstrap
from infra.servers.recovery.recover import Recovery, RecoveryPlan
from infra.servers.streams import RecoveryUnfinished
from shared.errors import DuramenError, UsageError
from shared.store.folder import Folder
from shared.store.place import ReadPlace
from shared.store.s3 import Store

PLACE_NAMES = ("store", "backup", "archive")
SERVER_SECONDS = 120.0
NOT_AGREED = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="duramen recover", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("data/local"))
    parser.add_argument("--place", action="append", metavar="PLACE", help="read it alone")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, no more")
    asked = parser.parse_args()
    try:
        home = home_of(asked.home, asked.place)
        with running(home):
            return asyncio.run(recover_run(home, asked.place, asked.yes, asked.dry_run))
    except DuramenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (NotStarted, PortTaken, ServerMissing, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1


def home_of(root: Path, places: list[str] | None) -> Home:
    """Return the folder of the run, ready for its servers.

    Raises UsageError where there is none and no place is named, and while its services run.
    """
    if not (root / "secrets").exists() and not places:
        raise UsageError(
            f"{root.absolute()} holds no installation, so nothing is recovered into it.",
            next_step="duramen recover --home DIR, or on a new host --from archive:/mnt/archive",
        )
    if supervisor_pid(Home(root.absolute())) is not None:
        raise UsageError(
            "The services run, and would write to the bus meanwhile.", next_step="make local-stop"
        )
    return make_ready(root)


@contextmanager
def running(home: Home) -> Iterator[None]:
    """Run the three servers, provisioned, until the block ends."""
    ports, secrets = Ports(), Secrets.ensure(home.secrets)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for server in servers(home, ports, secrets):
            log = home.log(server.name)
            processes.append(spawn(server.prepare(), log, process_environment({})))
        for server in servers(home, ports, secrets):
            await_health(server)
            server.settle()
        with suppress(RecoveryUnfinished):  # it is what goes on now
            asyncio.run(bootstrap(bootstrap_settings(home, ports, secrets)))
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def await_health(server: Server) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    while not server.healthy():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{server.name} does not start within {SERVER_SECONDS:.0f} s.")
        time.sleep(0.1)


def bootstrap_settings(home: Home, ports: Ports, secrets: Secrets) -> BootstrapSettings:
    values = with_user_settings(settings_for("bootstrap", home, ports, secrets))
    with variables_set(values):
        return BootstrapSettings()


@contextmanager
def variables_set(values: dict[str, str]) -> Iterator[None]:
    """Set these variables while the block runs: settings are read from nowhere else."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


async def recover_run(home: Home, names: list[str] | None, yes: bool, dry_run: bool) -> int:
    """Say what will be done, ask, and do it; return the exit status."""
    ports, secrets = Ports(), Secrets(home.secrets)
    places = [export_place(home, ports, secrets, name) for name in names or PLACE_NAMES]
    marks = sorted(file.parent for file in (home.root / "state").glob("*/marks.json"))
    recovery = Recovery(f"nats://127.0.0.1:{ports.nats}", secrets, marks)
    plan = await recovery.plan(places)
    if plan is None:
        print("The bus holds all that was exported of it. Nothing is to be done.")
        return 0
    print("\n".join(plan.lines))
    if dry_run:
        return 0
    if not (yes or is_agreed(plan)):
        print("nothing was changed")
        return NOT_AGREED
    kept = home.root / time.strftime("bus-before-recovery-%Y%m%dT%H%M%SZ.jsonl", time.gmtime())
    await recovery.carry_out(plan, kept)
    if plan.present:
        print(f"the records of the bus as it was are in {kept}")
    print("The bus is whole again. Next: make local, then duramen check")
    return 0


def is_agreed(plan: RecoveryPlan) -> bool:
    """Return whether the user agrees; nobody there does not."""
    try:
        return input(f"Replace {', '.join(plan.streams)} of the bus? Type yes: ").strip() == "yes"
    except EOFError:
        return False


def export_place(home: Home, ports: Ports, secrets: Secrets, name: str) -> ReadPlace:
    """Return a place by its name; `archive:/path` is a folder. Raises UsageError."""
    kind, _, path = name.partition(":")
    if kind not in PLACE_NAMES or (path and kind != "archive"):
        raise UsageError(f"{name!r} is not a place: store, backup, archive or archive:/a/folder.")
    if kind == "archive":
        settings = with_user_settings(settings_for("vault", home, ports, secrets))
        folder = Folder("archive", Path(path or settings["DURAMEN_ARCHIVE_DIR"]))
        folder.ping()
        return folder
    keys = secrets.keys("vault", kind)
    return Store(kind, ports.url(kind), keys.access, keys.secret)


if __name__ == "__main__":
    sys.exit(main())
