"""duramen doctor: look at everything that training needs, and say what to do where it fails."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import typer
from rich.text import Text

from services.ctl import cli
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import count_of
from shared import reach
from shared.errors import BusUnavailable, DuramenError
from shared.look import Look, looks_from_json
from shared.service_names import SERVICES
from shared.store.s3 import Store

LOW_DISK_BYTES = 5 << 30
AWAY = {"bus", "store", "backup"}
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
    with reach.http(timeout=3) as http:
        found = http.get(f"{config.nats_monitor_url}/varz").json()
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


def look_refused_files(config: CtlSettings) -> str:
    if config.inbox_dir is None:
        raise ValueError("DURAMEN_INBOX_DIR is not set")
    rejected = config.inbox_dir / "rejected"
    count = len(list(rejected.glob("*.report.txt"))) if rejected.is_dir() else 0
    return f"{config.inbox_dir}" + (
        f"; {count_of(count, 'refused file')} with a report" if count else ""
    )


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


def look_all(config: CtlSettings) -> list[Look]:
    """Look at everything at once: what hangs is waited for only once.

    The results come in the order in which one thing depends on another.
    """
    calls: dict[str, Callable[[], str]] = {"bus": lambda: look_bus(config)}
    if config.nats_monitor_url:
        calls["bus durability"] = lambda: look_sync(config)
    calls["store"] = lambda: look_store(cli.first_store(config))
    calls["backup"] = lambda: look_store(cli.backup_store(config))
    for name in SERVICES:
        calls[name] = partial(look_service, str(getattr(config, f"{name}_url")))
    if config.state_dir is not None:  # in a container there is none of its own
        calls["disk"] = lambda: look_disk(config)
    calls["inbox"] = lambda: look_refused_files(config)
    looks = looks_of_checkout(config.checkout) if config.checkout else []
    with ThreadPoolExecutor(len(calls)) as threads:
        return [*looks, *threads.map(look_around, calls.keys(), calls.values())]


def doctor(json: cli.Json = False) -> None:
    """Check the bus, the stores, the services, the disk and the inbox; exit 1 if one is wrong.

    Exit 6 if the bus or a store does not answer.
    """
    looks = look_all(cli.settings())
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
