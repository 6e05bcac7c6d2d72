"""duramen support-bundle: what somebody who helps needs to see, without secrets or rows."""

import asyncio
import io
import json as encoding
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import typer

from services.ctl import cli
from services.ctl.commands.installation.logs import log_lines_kept, programs_to_show
from services.ctl.commands.installation.settings import settings_now
from services.ctl.scrubbing import Scrub
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import size_of
from shared.bus.system import BusServer
from shared.errors import DuramenError, UsageError
from shared.host import machine_memory
from shared.program import program_version

# What is asked of the command line itself, and for how many seconds it may take.
COMMANDS_ASKED = {"status": 60.0, "doctor": 90.0, "check": 240.0, "disk": 60.0, "queue list": 60.0}
LOG_LINES = 400
READ_ME = """\
A support bundle of Duramen: what is installed, which settings hold, how everything is, and the last
lines of the logs. Secrets are replaced by the word (secret). Words that are not Duramen's own are
replaced by dots: names of files and lineages, texts from models, and anything that could be a row.
settings.json has addresses and folders as they are. Read it before you give it to anybody.
"""
Target = Annotated[
    Path | None, typer.Option("--to", help="The file to write, instead of one named by the time.")
]


def support_bundle(to: Target = None, json: cli.Json = False) -> None:
    """Write a file for somebody who helps you: no secret and no row is in it.

    Of names and other texts, words that are not Duramen's own become dots.

    It holds versions, settings, status, doctor, check, figures of the streams, and the last lines
    of the logs of an embedded run. Nothing is sent anywhere.
    """
    config = cli.settings()
    name = time.strftime("duramen-support-%Y%m%dT%H%M%SZ", time.gmtime())
    target = to or Path(f"{name}.tar.gz")
    if target.exists():
        raise UsageError(f"{target} exists already.", next_step="name another file with --to")
    scrub = Scrub(secrets_known(config))
    files = dict(collected(config, scrub))
    write_bundle(target, name, files)
    value = {"file": str(target), "size": target.stat().st_size, "holds": sorted(files)}
    cli.emit(value, json, lambda: print_bundle(value))


def print_bundle(value: dict[str, Any]) -> None:
    cli.console.print(f"{value['file']} ({size_of(value['size'])}): {', '.join(value['holds'])}.")
    cli.console.print("No secret and no row is in it. Read it before you give it to anybody.")


def collected(config: CtlSettings, scrub: Scrub) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file; one that fails holds its error instead."""
    yield "README.txt", READ_ME.encode()
    parts: dict[str, Callable[[], Any]] = {
        "versions": lambda: programs_here(config),
        "streams": lambda: scrub.value(asyncio.run(figures_of_streams(config))),
        **{name.replace(" ", "-"): asker(name, scrub) for name in COMMANDS_ASKED},
    }
    with ThreadPoolExecutor(len(parts)) as threads:
        begun = {name: threads.submit(answer_or_error, call, scrub) for name, call in parts.items()}
        found, silent = settings_now(config, None)
        errors = [scrub.text(str(error)) for error in silent]
        settings = encoding.dumps({"programs": found, "errors": errors}, indent=1, default=str)
        yield "settings.json", scrub.no_secrets(settings).encode()
        for name, future in begun.items():
            yield f"{name}.json", encoding.dumps(future.result(), indent=1, default=str).encode()
    yield from log_parts(config, scrub)


def answer_or_error(call: Callable[[], Any], scrub: Scrub) -> Any:
    """Return an answer, or what prevented it."""
    try:
        return call()
    except (DuramenError, OSError, ValueError, KeyError) as error:
        return {"error": scrub.text(f"{type(error).__name__}: {error}")}


def asker(words: str, scrub: Scrub) -> Callable[[], Any]:
    """Return a call that runs a command in a process of its own, and returns its scrubbed JSON."""

    def ask_command() -> Any:
        command = [sys.executable, "-m", "services.ctl", *words.split(), "--json"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMMANDS_ASKED[words]
            )
        except subprocess.TimeoutExpired:
            return {"error": f"no answer within {COMMANDS_ASKED[words]:.0f} s"}
        try:
            answer = scrub.value(encoding.loads(done.stdout))
        except ValueError:
            answer = None
        return {"exit": done.returncode, "answer": answer, "said": scrub.text(done.stderr)}

    return ask_command


def programs_here(config: CtlSettings) -> dict[str, Any]:
    """Return what is installed here, and on what host."""
    return {
        "duramen": program_version(),
        "installation": "embedded" if config.logs_dir else "containers",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "memory_bytes": machine_memory().total,
        "packages": {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name)},
    }


async def figures_of_streams(config: CtlSettings) -> list[dict[str, Any]]:
    """Return messages, bytes and sequences of each stream, as the bus' server says them."""
    if config.nats_monitor_seed_file is None:
        return []
    server = BusServer(config.nats_url, config.nats_monitor_seed_file, config.nats_ca)
    told = await server.ask("JSZ", accounts=True, streams=True, config=True)
    return [
        {
            "stream": stream["name"],
            "state": {n: v for n, v in stream["state"].items() if isinstance(v, int | str)},
            "max_bytes": stream["config"]["max_bytes"],
        }
        for account in told.get("account_details", [])
        for stream in account.get("stream_detail", [])
    ]


def log_parts(config: CtlSettings, scrub: Scrub) -> Iterator[tuple[str, bytes]]:
    """Yield the last lines of each log; where Docker keeps them, how they are to be had."""
    if config.logs_dir is None:
        yield "logs/README.txt", b"Docker keeps them: make logs ARGS='--no-follow --since 1h'\n"
        return
    for program in programs_to_show(config.logs_dir, None):
        lines = log_lines_kept(config.logs_dir, program, None, LOG_LINES)
        text = "\n".join(scrubbed_line(scrub, line.text) for line in lines)
        yield f"logs/{program}.log", (text + "\n").encode()


def scrubbed_line(scrub: Scrub, line: str) -> str:
    """Return a line of a log without secrets and strangers' words, JSON as JSON."""
    try:
        fields = encoding.loads(line)
    except ValueError:
        return scrub.text(line)
    return encoding.dumps(scrub.value(fields), ensure_ascii=False)


def secrets_known(config: CtlSettings) -> Iterator[str]:
    """Yield every secret that can be seen from here: in settings and in the folder of secrets."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if hasattr(value, "get_secret_value"):
            yield value.get_secret_value()
    for name, value in os.environ.items():
        if is_secret_name(name):
            yield from (value, *value.split())
    folder = config.nats_seed_file.parent.parent
    for path in folder.rglob("*") if folder.name == "secrets" else [config.nats_seed_file]:
        if path.is_file() and path.stat().st_size < 1 << 16:
            text = path.read_text(errors="replace").strip()
            yield text
            yield from (line.strip() for line in text.splitlines())


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable of this name holds a secret."""
    return any(word in name.upper() for word in ("TOKEN", "SECRET", "PASSWORD", "KEY", "NOTIFY"))


def write_bundle(target: Path, name: str, files: dict[str, bytes]) -> None:
    """Write the files into a folder of a tar.gz that only its owner can read."""
    made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(made, "wb") as output, tarfile.open(fileobj=output, mode="w:gz") as bundle:
        for path, content in files.items():
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
            bundle.addfile(member, io.BytesIO(content))
