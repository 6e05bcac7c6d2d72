"""duramen logs: what the programs of an installation have logged."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.ctl import cli
from services.ctl.views import log_lines
from services.ctl.views.log_lines import LogLine
from shared.errors import NotFound, UsageError
from shared.foreign_text import plain

FOLLOW_SECONDS = 0.3
ProgramLogged = Annotated[
    str | None, typer.Argument(metavar="[SERVICE]", help="One program: trainer, vault, nats, ….")
]


def show_logs(
    service: ProgramLogged = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more lines.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", help="From then on: 10m, 2h, 1d, or a time.")
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many last lines of each program.")
    ] = 50,
    json: cli.Json = False,
) -> None:
    """Show the last lines that the services and servers have logged.

    The logs of a program take 100 MB at most; the oldest lines are dropped then. They hold no
    training text and no secret. A job's own log: duramen queue show JOB --log.
    """
    config = cli.settings()
    if config.logs_dir is None:
        if config.checkout is None:
            raise UsageError(
                "The logs of containers are kept by Docker, which cannot be reached from here.",
                next_step=f"on the host: make logs ARGS={service or 'trainer'}",
            )
        raise typer.Exit(by_the_engine(config.checkout, service, follow, since, lines))
    begun = log_lines.moment(since, datetime.now(UTC)) if since else None
    names = programs_to_show(config.logs_dir, service)
    positions = {name: log_size(config.logs_dir, name) for name in names}
    found = [line for name in names for line in log_lines_kept(config.logs_dir, name, begun, lines)]
    print_lines(log_lines.by_time(found), json=json, as_one=not follow)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        more = [line for name in names for line in added(config.logs_dir, name, positions)]
        print_lines(more, json=json, as_one=False)


def by_the_engine(
    checkout: Path, service: str | None, follow: bool, since: str | None, lines: int
) -> int:
    """Show the logs of containers from their host; return the exit status."""
    words = [] if follow else ["--no-follow"]
    words += ["--since", since] if since else ["--tail", str(lines)]
    command = [sys.executable, "-m", "infra.compose", "logs", *words]
    return subprocess.run([*command, *([service] if service else [])], cwd=checkout).returncode


def programs_to_show(folder: Path, service: str | None) -> list[str]:
    """Return the programs whose logs are shown. Raises NotFound for one that has none."""
    names = log_lines.programs_with_logs(folder)
    if service is not None and service not in names:
        raise NotFound(
            f"{service!r} has no log in {folder}.", next_step=f"choose one of {', '.join(names)}"
        )
    return [service] if service else names


def log_lines_kept(folder: Path, name: str, begun: datetime | None, lines: int) -> list[LogLine]:
    """Return what was logged until now: from a time on, or the last lines."""
    if begun is not None:
        return list(log_lines.lines_since(folder, name, begun))
    return log_lines.last_lines(folder, name, lines) if lines else []


def log_size(folder: Path, name: str) -> int:
    return (folder / f"{name}.log").stat().st_size


def added(folder: Path, name: str, positions: dict[str, int]) -> Iterator[LogLine]:
    """Yield the whole lines that were written since the last look, and note where they end."""
    if log_size(folder, name) < positions[name]:  # it was set aside, and begins again
        positions[name] = 0
    with (folder / f"{name}.log").open("rb") as file:
        file.seek(positions[name])
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    positions[name] += len(whole)
    yield from log_lines.timed(name, whole.decode(errors="replace").splitlines())


def print_lines(found: list[LogLine], *, json: bool, as_one: bool) -> None:
    """Print lines for people, or as JSON: one list, or an object for each line."""
    if json and as_one:
        cli.emit([line.told() for line in found], json, lambda: None)
        return
    for line in found:
        if json:
            cli.emit(line.told(), json, lambda: None)
        else:
            sys.stdout.write(plain(log_lines.line_for_people(line)) + "\n")
    sys.stdout.flush()
