"""`make demo`: the main job on real data, from an empty folder to verified versions.

Starts the embedded servers and services, brings a base model, drops a sample file into the inbox,
and follows it until its version has three verified copies. A second call starts what is there and
shows its table. Everything is done by the same commands that a user types; they are shown.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from shlex import join, quote

from infra.local import base_model, sample
from infra.local.home import Home
from infra.local.lifecycle import NotStarted, down, up
from infra.local.ports import Ports, PortTaken
from infra.local.programs import ROOT
from infra.local.servers import ServerMissing
from infra.secrets.secrets import Secrets
from shared.bus.client import Bus
from shared.formats.version import version_name
from shared.ledger.jobs import Table
from shared.service_names import SERVICES

HOME = Path("data/demo")
# Small steps: the sample's rows are short, and two cores are to be enough.
SETTINGS = {
    "DURAMEN_NUM_TRAIN_EPOCHS": "2",
    "DURAMEN_BATCH_TOKENS": "512",
    "DURAMEN_LEARNING_RATE": "1e-3",
    "DURAMEN_WARMUP_STEPS": "5",
    "DURAMEN_CHECKPOINT_SECONDS": "20",
}
TAKEN_SECONDS = 60
SAMPLE_NAME = "code_words.jsonl"


class DemoFailed(Exception):
    """The demo cannot continue; the message says why."""


def print_line(text: str = "") -> None:
    print(text, flush=True)


def title(text: str) -> None:
    print_line(f"\n── {text} " + "─" * max(0, 76 - len(text)))


def run_duramen(home: Home, *words: str) -> None:
    """Run one command as a user would, and show it."""
    print_line(f"$ duramen {join(words)}")
    environment = {**os.environ, "DURAMEN_ENV_FILE": str(home.env_file)}
    command = [sys.executable, "-m", "services.ctl", *words]
    if subprocess.run(command, cwd=ROOT, env=environment).returncode != 0:
        raise DemoFailed(f"`duramen {' '.join(words)}` failed; logs are in {home.logs}")


async def print_state(home: Home) -> Table:
    """Return the jobs and lineages as they are now."""
    secrets = Secrets.ensure(home.secrets)
    bus = Bus(f"nats://127.0.0.1:{Ports().nats}", secrets.seed_file("ctl"), "ctl")
    async with bus:
        found = Table()
        await found.update(bus)
        return found


def await_job(home: Home) -> None:
    """Wait until ingest has queued the sample. Raises DemoFailed."""
    deadline = time.monotonic() + TAKEN_SECONDS
    while not asyncio.run(print_state(home)).jobs:
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"the file in the inbox was not read within {TAKEN_SECONDS} s; see {home.logs}"
            )
        time.sleep(0.3)


def drop_file(path: Path, inbox: Path) -> None:
    """Put a file into the inbox as one should: written elsewhere, renamed into place."""
    part = inbox / f".{path.name}.part"
    shutil.copy(path, part)
    part.rename(inbox / path.name)


def train_demo(home: Home) -> None:
    """Add a base, drop the sample, and train it to a version."""
    title("a base model")
    model = home.root / "smollm2-135m-instruct"
    print_line(f"SmolLM2-135M-Instruct (Apache-2.0) as safetensors: {model}")
    base_model.convert(model)
    run_duramen(home, "base", "add", str(model))
    title("a training file")
    file = home.root / SAMPLE_NAME
    sample.write_sample(file)
    drop_file(file, home.inbox)
    print_line(f"{file.name} is in {home.inbox}")
    await_job(home)
    title("training")
    run_duramen(home, "watch", "--until-done")


def print_end(home: Home) -> None:
    """Print the end: versions, what was learned, how to restore, what keeps running."""
    found = asyncio.run(print_state(home))
    title("versions")
    run_duramen(home, "versions", "list")
    done = [job for job in found.jobs.values() if job.record.state == "done"]
    for job in done[-1:]:
        title("what it learned")
        run_duramen(home, "evolution", "show", str(job.id))
        title("what it answered on the way")
        run_duramen(home, "evolution", "example", str(job.id))
    newest = max((line.latest or 0 for line in found.lines.values()), default=0)
    if newest:
        show_restore(home, version_name(newest))
    show_running(home)


def show_restore(home: Home, version: str) -> None:
    """Print the S3 restore, ready to be pasted; it needs nothing of ours."""
    ports, secrets = Ports(), Secrets.ensure(home.secrets)
    keys = secrets.keys("reader", "store")
    profile = home.root / "aws-credentials"
    text = f"[duramen]\naws_access_key_id = {keys.access}\naws_secret_access_key = {keys.secret}\n"
    descriptor = os.open(profile, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    title("restore it with any S3 client (read-only keys)")
    print_line(
        f"export AWS_SHARED_CREDENTIALS_FILE={quote(str(profile))} AWS_PROFILE=duramen "
        "AWS_REGION=us-east-1"
    )
    endpoint = ports.url("store")
    source = f"s3://duramen/lineages/main/{version}/"
    print_line(f"aws --endpoint-url {endpoint} s3 sync {source} {version}")
    print_line(f"(cd {version} && sha256sum -c SHA256SUMS)")
    print_line(f"or: {ROOT / '.venv/bin/duramen'} restore {version} --to {version} --with-base")


def show_running(home: Home) -> None:
    ports = Ports()
    title("what keeps running")
    print_line(f"inbox   {home.inbox}   (drop a JSONL file here)")
    print_line(
        f"store   {ports.url('store')}   backup {ports.url('backup')}   archive {home.archive}"
    )
    for service in SERVICES:
        print_line(f"{service:<10}{ports.url(service)}/healthz  /metrics")
    print_line(
        f"Commands: export DURAMEN_ENV_FILE={quote(str(home.env_file))}; .venv/bin/duramen --help"
    )
    print_line("Stop it all: make demo-stop")


def main() -> int:
    started = time.monotonic()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    title("servers and services")
    try:
        home = up(HOME, print_line)
        if not any(line.versions for line in asyncio.run(print_state(home)).lines.values()):
            train_demo(home)
        print_end(home)
    except (DemoFailed, NotStarted, PortTaken, ServerMissing) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print_line("\ninterrupted: everything is stopped; `make demo` continues where it left off")
        down(HOME, print_line)
        return 130
    print_line(f"\nThe whole run took {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
