"""duramen doctor: look at everything that training needs, and say what to do where it fails."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import typer
from rich.text import Text

from services.ctl import cli
from services.ctl.commands.disk import UNKNOWN_SPACE
from services.ctl.settings import CtlSettings
from services.ctl.supervised import ill_programs
from services.ctl.troubles import SystemSeen, filling_disks, places_of, see_system, troubles
from services.ctl.views.columns import count_of, size_of
from services.ctl.views.inbox_waits import waits_lines
from shared import reach
from shared.answers.ingest import InboxShown
from shared.bus.system import BusServer
from shared.errors import BusUnavailable, DuramenError
from shared.look import Look, looks_from_json
from shared.protocol.observed import MOST_SHOWN, DiskSeen, InboxFile, InboxWaits
from shared.service_names import SERVICES
from shared.store.s3 import Store

LOW_DISK_BYTES = 5 << 30
AWAY = {"bus", "store", "backup"}
DEADLINE_SECONDS = 20.0  # for all looks together
HOST_SECONDS = 240.0  # a container of the trainer is asked what it sees of the GPU


def look_around(what: str, call: Callable[[], str]) -> Look:
    """Look at one thing and return the result; an error that it raises is what was found."""
    try:
        return Look(what, True, call())
    except (DuramenError, httpx.HTTPError, OSError, ValueError, KeyError) as error:
        found = str(error)
        if isinstance(error, DuramenError) and error.next_step == "duramen doctor":  # this it is
            found = error.said
        return Look(what, False, found or type(error).__name__)


def looks_of(what: str, call: Callable[[], str]) -> list[Look]:
    return [look_around(what, call)]


def look_bus(config: CtlSettings) -> str:
    async def ping() -> None:
        async with cli.bus(config) as bus:
            await bus.ping()

    asyncio.run(ping())
    return config.nats_url


def look_sync(config: CtlSettings) -> str:
    """Check that the bus syncs every acknowledged record to disk. Raises ValueError if not.

    Without that, a power cut loses records.
    """
    assert config.nats_monitor_seed_file is not None
    server = BusServer(config.nats_url, config.nats_monitor_seed_file, config.nats_ca)
    if trouble := asyncio.run(server.trouble()):
        raise ValueError(f"it takes no records: {trouble}")
    found = asyncio.run(server.ask("VARZ"))
    if not found["jetstream"]["config"].get("sync_always"):
        raise ValueError("its sync_interval is not `always`, so a power cut would lose records")
    return "sync_interval: always"


def look_store(store: Store) -> str:
    store.ping()
    return store.url


def look_service(url: str) -> str:
    try:
        with reach.http(timeout=10) as http:
            http.head(url, timeout=cli.KNOCK_SECONDS)
            reply = http.get(f"{url}/healthz")
    except httpx.HTTPError as error:
        raise cli.service_away(url, error) from error
    if reply.status_code != 200:
        raise ValueError(f"{url}: {reply.json().get('detail')}")
    return url


def look_disk(config: CtlSettings) -> str:
    assert config.state_dir is not None
    free = shutil.disk_usage(config.state_dir).free
    if free < LOW_DISK_BYTES:
        raise ValueError(f"only {free >> 20} MiB are free: delete files you do not need")
    return f"{free >> 30} GiB free"


def look_at_inbox(config: CtlSettings) -> list[Look]:
    """Look at the inbox: the folder and the refused files, then what waits in it and why."""
    try:
        shown = inbox_shown(config)
    except (DuramenError, OSError, ValueError) as error:
        return [*refused_files(config), *untaken_files(config, error)]
    files = [InboxFile(file=each.name, why=each.why) for each in shown.taken if each.why]
    files += [InboxFile(file=each.file, why=each.why) for each in shown.waiting]
    waits = InboxWaits(count=len(files), files=files[:MOST_SHOWN])
    return [*refused_files(config), *(Look("inbox", None, line) for line in waits_lines(waits))]


def inbox_shown(config: CtlSettings) -> InboxShown:
    """Return what ingest says of its inbox. Raises DuramenError, ValueError."""
    seconds = cli.KNOCK_SECONDS
    return cli.ask(InboxShown, config.ingest_url, config.ingest_token, "/api/inbox", "GET", seconds)


def refused_files(config: CtlSettings) -> list[Look]:
    """Return where the inbox is, and how many refused files lie in it."""
    if config.inbox_dir is None:
        return [Look("inbox", False, "DURAMEN_INBOX_DIR is not set")]
    rejected = config.inbox_dir / "rejected"
    count = len(list(rejected.glob("*.report.txt"))) if rejected.is_dir() else 0
    refused = f"; {count_of(count, 'refused file')} with a report" if count else ""
    return [Look("inbox", True, f"{config.inbox_dir}{refused}")]


def untaken_files(config: CtlSettings, error: Exception) -> list[Look]:
    """Return what can be seen of the inbox from here while ingest does not answer."""
    count = sum(1 for _ in untaken(config.inbox_dir)) if config.inbox_dir else 0
    if not count:
        return []
    said = error.said if isinstance(error, DuramenError) else str(error)
    files = f"{count_of(count, 'file')} {'waits' if count == 1 else 'wait'}"
    return [Look("inbox", None, f"{files} for ingest: {said}")]


def untaken(inbox: Path) -> Iterator[Path]:
    """Yield the files that lie in the folders of the inbox and of its lineages."""
    for pattern in ("*", "*/*", "@*/*/*"):
        for path in inbox.glob(pattern):
            top = path.relative_to(inbox).parts[0]
            if top not in ("done", "rejected") and top[0] != "." and path.is_file():
                yield path


def looks_of_checkout(checkout: Path) -> list[Look]:
    """Look at what `make up` does at its start: engine, GPU, ports, permissions, clock, disks."""
    command = [sys.executable, "-m", "infra.compose", "doctor", "--json"]
    try:
        done = subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, timeout=HOST_SECONDS
        )
        return looks_from_json(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return [Look("host", None, f"{checkout} cannot check this host: {error}")]


def look_at_troubles(config: CtlSettings) -> list[Look]:
    """Look for what `duramen status` would name first, and for a model to train."""

    async def ask() -> SystemSeen:
        async with cli.bus(config) as bus:
            return await see_system(config, bus)

    try:
        seen = asyncio.run(ask())
    except DuramenError:
        return []  # the look at the bus says so
    found = [
        Look(each.what, False, each.said if each.next_step == "duramen doctor" else each.line)
        for each in troubles(seen)
    ]
    found += looks_at_disks(places_of(seen.services))
    if not any(line.settings for line in seen.table.lines.values()):
        text = "there is no model yet, so nothing can be trained.  Next: duramen base add MODEL"
        found.append(Look("model", None, text))
    return found


def looks_at_disks(disks: list[DiskSeen]) -> list[Look]:
    """Look at each place that has room, or of which nobody can say: the rest are troubles."""
    found = [Look("disk", None, text) for text in filling_disks(disks)]
    for disk in disks:
        if disk.free is None:
            found.append(Look(f"disk {disk.place}", None, UNKNOWN_SPACE))
        elif disk.free >= disk.reserve:
            text = f"{size_of(disk.free)} free in {disk.folder}"
            found.append(Look(f"disk {disk.place}", True, text))
    return found


def look_all(config: CtlSettings) -> list[Look]:
    """Look at everything at once: what hangs is waited for only once.

    The results come in the order in which one thing depends on another.
    """
    calls: dict[str, Callable[[], str]] = {"bus": lambda: look_bus(config)}
    if config.nats_monitor_seed_file:
        calls["bus durability"] = lambda: look_sync(config)
    calls["store"] = lambda: look_store(cli.first_store(config))
    calls["backup"] = lambda: look_store(cli.backup_store(config))
    for name in SERVICES:
        calls[name] = partial(look_service, str(getattr(config, f"{name}_url")))
    if config.state_dir is not None:  # in a container there is none of its own
        calls["disk"] = lambda: look_disk(config)
    looks = looks_of_checkout(config.checkout) if config.checkout else []
    looks += [Look(ill.what, False, ill.line) for ill in ill_programs(config.supervisor_file)]
    threads = ThreadPoolExecutor(len(calls) + 2)
    begun = [(name, threads.submit(looks_of, name, call)) for name, call in calls.items()]
    begun.append(("troubles", threads.submit(look_at_troubles, config)))
    begun.append(("inbox", threads.submit(look_at_inbox, config)))
    deadline = time.monotonic() + DEADLINE_SECONDS
    for name, future in begun:
        looks += result_by(deadline, name, future)
    threads.shutdown(wait=False)  # what hangs ends with this process
    return looks


def result_by(deadline: float, name: str, future: Future[list[Look]]) -> list[Look]:
    """Return what a look found, or that it hangs if it is not over by then."""
    try:
        with cli.wait_notice(name):
            return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        return [Look(name, False, f"it hangs: no answer within {DEADLINE_SECONDS:.0f} s")]


def doctor(json: cli.Json = False) -> None:
    """Check the bus, the stores, the services, the disk and the inbox; exit 1 if one is wrong.

    Exit 6 if the bus or a store does not answer.
    """
    config = cli.settings()
    looks = [Look("installation", True, cli.installation()), *look_all(config)]
    value: list[dict[str, Any]] = [vars(found) for found in looks]
    cli.emit(value, json, lambda: print_looks(looks))
    wrong = {found.what for found in looks if found.ok is False}
    if wrong:
        raise typer.Exit(BusUnavailable.exit_code if wrong & AWAY else 1)


def print_looks(looks: list[Look]) -> None:
    for found in looks:
        mark = {True: ("ok", "green"), False: ("no", "red"), None: ("--", "yellow")}[found.ok]
        said = Text.assemble(f"{found.what:16}", mark)
        cli.console.print(said.append(f"  {found.found}"), soft_wrap=True)
