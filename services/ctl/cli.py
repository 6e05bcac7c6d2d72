"""What every command needs: settings, connections, output for people or programs, exit codes.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 accepted, not yet observed; 4 not found; 5 changed by
another; 6 bus or store away; 7 the bus went back in time; 8 damaged bytes; 130 interrupted.
"""

import asyncio
import getpass
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from rich.console import Console

from shared import log
from shared.bus import Bus
from shared.errors import DuramenError, NotFound, UsageError
from shared.settings import CtlSettings
from shared.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Lineage = Annotated[str, typer.Option("--lineage", "-l", help="The line of training meant.")]
console = Console(highlight=False)
HOMES = ("data/local", "data/demo")


def settings() -> CtlSettings:
    """From DURAMEN_ENV_FILE, else the environment, else the embedded run in this folder."""
    named = os.environ.get("DURAMEN_ENV_FILE")
    files = [Path(named)] if named else [Path(home) / "env" for home in HOMES]
    if named or "DURAMEN_NATS_URL" not in os.environ:
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise UsageError(
                "Nothing runs here: no settings in the environment, in DURAMEN_ENV_FILE or under "
                + " or ".join(HOMES)
                + ".",
                next_step="make local",
            )
        for name, value in dotenv_values(found).items():
            if value is not None:
                os.environ.setdefault(name, value)
    try:
        return CtlSettings()
    except ValidationError as error:
        missing = ", ".join("DURAMEN_" + str(e["loc"][0]).upper() for e in error.errors())
        raise UsageError(f"Settings are missing or wrong: {missing}.") from error


def who() -> str:
    """Who gives the command, for the audit."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@asynccontextmanager
async def bus(config: CtlSettings) -> AsyncIterator[Bus]:
    """A connection that does not come back by itself: a command never fires later."""
    connection = Bus(config.nats_url, config.nats_seed_file, "ctl")
    await connection.connect(patient=False)
    try:
        yield connection
    finally:
        await connection.close()


def _secret(value: SecretStr) -> str:
    return value.get_secret_value()


def store(config: CtlSettings) -> Store:
    """The first store, with the CLI's own keys: it may read, and write to `work/staging/`."""
    return Store(
        "store",
        config.store_url,
        _secret(config.store_access_key),
        _secret(config.store_secret_key),
    )


def backup(config: CtlSettings) -> Store:
    """The backup, read-only."""
    return Store(
        "backup",
        config.backup_url,
        _secret(config.backup_access_key),
        _secret(config.backup_secret_key),
    )


def ask(
    url: str, token: SecretStr | None, path: str, method: str = "GET", seconds: float = 30.0
) -> Any:
    """One HTTP request to a service; its JSON. Raises NotFound, DuramenError."""
    headers = {"Authorization": f"Bearer {_secret(token)}"} if token else {}
    try:
        reply = httpx.request(method, url.rstrip("/") + path, headers=headers, timeout=seconds)
    except httpx.HTTPError as error:
        raise DuramenError(f"{url} does not answer: {error}", next_step="duramen doctor") from error
    if reply.status_code == 404:
        raise NotFound(reply.json().get("error", f"{path} does not exist."))
    if reply.status_code >= 400:
        body = reply.json()
        raise DuramenError(str(body.get("error") or body.get("detail") or body))
    return reply.json()


def emit(
    value: BaseModel | dict[str, Any] | list[Any], json_: bool, human: Callable[[], None]
) -> None:
    """JSON for programs, or what `human` prints."""
    if not json_:
        human()
        return
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    sys.stdout.write(json.dumps(plain, ensure_ascii=False, default=str) + "\n")


def run(command: Coroutine[Any, Any, None]) -> None:
    """Run one command to its end."""
    asyncio.run(command)


def main(app: typer.Typer) -> None:
    """Run the app; an expected error is one line on standard error and its exit code."""
    log.configure("ctl", os.environ.get("DURAMEN_LOG_LEVEL", "error"))
    try:
        app()
    except DuramenError as error:
        sys.stderr.write(f"duramen: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
