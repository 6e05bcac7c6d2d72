"""Settings, connections, output for people or programs, and exit codes of every command.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 accepted, not yet observed; 4 not found; 5 changed by
another; 6 bus, store or service away; 7 the bus went back in time; 8 damaged bytes; 130
interrupted.

Libraries that only some commands need are loaded by those: most commands answer in half a second.
"""

import asyncio
import getpass
import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import typer
from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from services.ctl.errors import ServiceUnavailable
from services.ctl.settings import CtlSettings
from services.ctl.views import columns
from shared import log, reach
from shared.answers import Reply
from shared.bus.client import Bus
from shared.errors import START, BusUnavailable, DuramenError, NotFound, UsageError
from shared.foreign_text import one_line, plain, plain_json
from shared.protocol.names import LEVELS, Level
from shared.wrong_value import why_wrong

if TYPE_CHECKING:
    from rich.console import Console

    from shared.store.s3 import Store

    console: Console

HELP = (
    "Fine-tunes a language model continuously and keeps every result.\n\n"
    "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 accepted but not yet observed; 4 not found; "
    "5 changed by somebody else; 6 bus, store or service unavailable; 7 the bus has lost records; "
    "8 damaged bytes; 130 interrupted."
)
T = TypeVar("T")
emitted: list[object] = []  # the answers that were printed as JSON: at most one document
chosen: dict[str, Path] = {}  # under "home", the installation whose settings were read
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Lineage = Annotated[str, typer.Option("--lineage", "-l", help="The lineage, by its name.")]
Priority = Annotated[str | None, typer.Option("--priority", help="high, normal or low.")]
OldPriority = Annotated[str | None, typer.Option("--level", hidden=True)]  # its former name
given_by_shell: set[str] = set()  # settings of the command line that no file brought
KNOCK_SECONDS = 3.0
HOMES = ("data/local", "data/demo", "data/compose")
WAIT_NOTICE_SECONDS = 2.0
NOTICE_SECONDS = 0.3  # in which a bus on this host takes a connection


def __getattr__(name: str) -> "Console":
    """Make `console` when it is first used."""
    if name != "console":
        raise AttributeError(name)
    from services.ctl.plain_console import PlainConsole

    made = globals()["console"] = PlainConsole()
    return made


def settings() -> CtlSettings:
    """Return the settings of DURAMEN_ENV_FILE, else of the environment or an installation here.

    Raises UsageError, ServiceUnavailable.
    """
    given_by_shell.update(name for name in os.environ if name.startswith("DURAMEN_"))
    named = os.environ.get("DURAMEN_ENV_FILE")
    files = [Path(named)] if named else [Path(home) / "env" for home in HOMES]
    if named or "DURAMEN_NATS_URL" not in os.environ:
        found = the_running([file for file in files if file.is_file()])
        if found is None:
            if named:
                raise UsageError(f"DURAMEN_ENV_FILE names {named}, which does not exist.")
            raise ServiceUnavailable(
                "Nothing runs here: there are no settings in the environment, in "
                "DURAMEN_ENV_FILE, or "
                f"under {', '.join(HOMES)}.",
                next_step=START,
            )
        read_env_file(found)
        chosen["home"] = found.parent
    try:
        return CtlSettings()
    except ValidationError as error:
        wrong = "; ".join(
            f"DURAMEN_{str(each['loc'][0]).upper()}: {why_wrong(each)}" for each in error.errors()
        )
        raise UsageError(f"Some settings are missing or wrong: {wrong}.") from error


def the_running(files: list[Path]) -> Path | None:
    """Return the first of these installations whose bus runs, else the first, or None."""
    if len(files) < 2:
        return next(iter(files), None)
    return next((file for file in files if is_running(file)), files[0])


def is_running(file: Path) -> bool:
    """Return whether the bus of the installation with these settings takes connections."""
    address = urlsplit(dotenv_values(file, interpolate=False).get("DURAMEN_NATS_URL") or "")
    try:
        at = address.hostname or "", address.port or 4222
        socket.create_connection(at, timeout=NOTICE_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def installation() -> str:
    """Return which installation this command speaks to, as people name it."""
    named = os.environ.get("DURAMEN_ENV_FILE")
    home = Path(named).parent if named else chosen.get("home")
    return str(home) if home is not None else "set by the environment"


def read_env_file(path: Path) -> None:
    """Put the values of a file into the environment, but for names that are set there.

    `${NAME}` in a value stands for itself: it may be a part of a path.
    """
    for name, value in dotenv_values(path, interpolate=False).items():
        if value is not None:
            os.environ.setdefault(name, value)


def priority_of(shown: str | None) -> Level | None:
    """Return a priority as it was typed, or None. Raises UsageError for anything else."""
    known: dict[str, Level] = {level: level for level in LEVELS}
    if shown is not None and shown not in known:
        raise UsageError(f"{shown!r} is not a priority. Use high, normal or low.")
    return known[shown] if shown else None


def is_json() -> bool:
    """Return whether the command as it was typed is to answer in JSON."""
    return "--json" in sys.argv[1:]


def confirm(question: str, yes: bool) -> None:
    """Ask a person at a terminal before something is lost; a program has decided already.

    Raises typer.Abort if the answer is no.
    """
    if not yes and not is_json() and sys.stdin.isatty() and sys.stdout.isatty():
        typer.confirm(question, abort=True)


@contextmanager
def wait_notice(what: str) -> Iterator[None]:
    """Say on standard error what is waited for, once it takes longer than two seconds."""

    def tell() -> None:
        say(f"waiting for {what} …")

    timer = threading.Timer(WAIT_NOTICE_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def who() -> str:
    """Return who gives the command, for the record."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@asynccontextmanager
async def bus(config: CtlSettings) -> AsyncIterator[Bus]:
    """Open a connection that does not come back by itself: a command never fires later."""
    connection = Bus(config.nats_url, config.nats_seed_file, "ctl", ca=config.nats_ca)
    try:
        with wait_notice(f"the bus at {config.nats_url}"):
            await connection.connect(patient=False)
    except BusUnavailable as error:
        where = f"{error.said.rstrip('.')} (installation: {installation()})."
        raise BusUnavailable(where, next_step=error.next_step) from error
    try:
        yield connection
    finally:
        await connection.close()


def secret(value: SecretStr) -> str:
    return value.get_secret_value()


def first_store(config: CtlSettings) -> "Store":
    """Return the first store, with the CLI's own keys.

    They allow reading, and writing to `work/staging/`.
    """
    from shared.store.s3 import Store

    keys = config.store_access_key, config.store_secret_key
    return Store.opened("store", config.store_url, *keys, patient=False)


def backup_store(config: CtlSettings) -> "Store":
    """Return the backup, read-only."""
    from shared.store.s3 import Store

    keys = config.backup_access_key, config.backup_secret_key
    return Store.opened("backup", config.backup_url, *keys, patient=False)


def ask(
    kind: type[T],
    url: str,
    token: SecretStr | None,
    path: str,
    method: str = "GET",
    seconds: float = 30.0,
    content: str | None = None,
) -> T:
    """Return what a service answers, as `kind`.

    Raises NotFound, ServiceUnavailable, DuramenError.
    """
    import httpx

    headers = {"Authorization": f"Bearer {secret(token)}"} if token else {}
    try:
        with (
            wait_notice(f"an answer of {url}"),
            reach.http(headers=headers, timeout=seconds) as http,
        ):
            http.head(url, timeout=KNOCK_SECONDS)  # one that hangs is not waited for
            reply = http.request(method, url.rstrip("/") + path, content=content)
    except httpx.HTTPError as error:
        raise service_away(url, error) from error
    if reply.status_code == 404:
        raise NotFound(reply.json().get("error", f"{path} does not exist."))
    if reply.status_code >= 400:
        body = reply.json()
        raise DuramenError(str(body.get("error") or body.get("detail") or body))
    return understood(kind, url, reply.content)


def understood(kind: type[T], url: str, body: bytes) -> T:
    """Return a service's answer as `kind`. Raises DuramenError for an unknown form."""
    try:
        return TypeAdapter(kind).validate_json(body)
    except ValidationError as error:
        raise DuramenError(
            f"{url} answers in a form that this program does not know.",
            next_step="upgrade this program, or the service, to the other's version",
        ) from error


def service_away(url: str, error: Exception) -> ServiceUnavailable:
    """Return the error that reports a service which does not answer."""
    why = str(error) or type(error).__name__
    text = f"{url} does not answer: {why} (installation: {installation()})."
    return ServiceUnavailable(text, next_step=START)


def emit(
    value: BaseModel | Mapping[str, Any] | Sequence[Any], json_: bool, human: Callable[[], None]
) -> None:
    """Print JSON for programs, or call `human` to print for people."""
    if not json_:
        human()
        return
    write_json(json.dumps(value, ensure_ascii=False, default=jsonable))
    emitted.append(value)


def write_json(text: str) -> None:
    """Print JSON with what a terminal would obey written as escapes: it means the same."""
    sys.stdout.write(plain_json(text) + "\n")
    sys.stdout.flush()


def jsonable(value: object) -> object:
    """Return what JSON can say of a value; of an answer, only what the service said."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=isinstance(value, Reply))
    return str(value)


def print_table(
    heads: Sequence[columns.Column | str], rows: Iterable[Sequence[columns.Cell | str]]
) -> None:
    """Print a table, as wide as the terminal; into a pipe or a file it is never shortened."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size().columns if known else None
    drawn = columns.lines(heads, rows, width, colours=has_colours())
    sys.stdout.write("\n".join(drawn) + "\n")


def note(sentence: str, style: str) -> None:
    """Print a sentence in a colour, with control characters made visible."""
    shown = one_line(sentence)
    code = columns.CODES[style]
    sys.stdout.write(f"\x1b[{code}m{shown}\x1b[0m\n" if has_colours() else shown + "\n")


def has_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def run_command(command: Coroutine[Any, Any, None]) -> None:
    """Run one command to its end."""
    asyncio.run(command)


def main(app: typer.Typer) -> None:
    """Run the app; an error becomes one line on standard error, and an exit code."""
    log.configure_when_needed("ctl", os.environ.get("DURAMEN_LOG_LEVEL", "error"))
    try:
        code = app(prog_name="duramen", standalone_mode=False)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)  # freeing ten thousand records would take as long as reading them
    except DuramenError as error:
        say(str(error))
        _say_json(error.said, error.next_step, error.exit_code)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        sys.exit(_refused(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:  # as by `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _refused(error: typer.TyperException) -> int:
    """Report what is wrong with a command as it was typed, and return the exit code."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "duramen"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if "Usage:" in message or not message.strip():  # the help itself, where a command is missing
        sys.stderr.write(plain(message.rstrip()) + "\n")
    else:
        say(f"{message}  Next: {command} --help")
        _say_json(message, f"{command} --help", 2)
    return 2


def _say_json(message: str, next_step: str, code: int) -> None:
    """Print an error on standard output too, as JSON, where a program asked for JSON."""
    if is_json() and not emitted:
        value = {"error": message, "next": next_step or None, "exit_code": code}
        write_json(json.dumps(value, ensure_ascii=False))


def say(message: str) -> None:
    """Say something on standard error, on one line."""
    text = plain(" ".join(re.split(r"\s*[\n\t]\s*", message.strip())))
    sys.stderr.write(f"duramen: {text}\n")
    sys.stderr.flush()
