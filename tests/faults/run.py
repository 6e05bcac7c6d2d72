"""An embedded run that is broken on purpose, each of its folders on a file system of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from minio import Minio

from infra.local.home import Home
from infra.local.lifecycle import down, status, supervisor_pid
from infra.local.ports import Ports, from_base
from infra.secrets.secrets import Secrets
from infra.servers.buckets import client, connections
from tests.tiny import line_of, make_tiny, tiny_conversations

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("nats", "store", "backup", "archive", "inbox", "logs")
STATES = ("ingest", "trainer", "vault", "evolution")
ROOMY = 32 << 30  # more than any alert asks for; memory is taken by what is written
START_SECONDS = 180
# A fault is to be seen while files go through; so they are short, and none is known already.
SETTINGS = {
    "DURAMEN_SETTLE_SECONDS": "0.2",
    "DURAMEN_CHECKPOINT_SECONDS": "2",
    "DURAMEN_BATCH_TOKENS": "64",
    "DURAMEN_NUM_TRAIN_EPOCHS": "2",
}
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Said:
    """What a command printed, and how it ended; None where it had to be stopped."""

    status: int | None
    text: str

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.text.splitlines() if line.strip()]


class Run:
    """One home and the commands of its user."""

    def __init__(self, root: Path, port_base: int) -> None:
        self.home = Home(root.absolute())
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith("DURAMEN_")},
            **SETTINGS,
            "DURAMEN_PORT_BASE": str(port_base),
            "DURAMEN_ENV_FILE": str(self.home.env_file),
            "COLUMNS": "160",
            "OMP_NUM_THREADS": "1",
        }
        self.mounted: list[Path] = []
        self.dropped = count(1)

    def make(self) -> None:
        """Start it with a file system for each folder, a base and a first version."""
        for folder in self.folders():
            folder.mkdir(parents=True, exist_ok=True)
            mount(folder, ROOMY)
            self.mounted.append(folder)
        self.start()
        base = make_tiny(self.home.root / "models" / "tiny")
        assert self.duramen("base", "add", str(base)).status == 0
        self.drop()
        self.until(lambda: self.versions() == 1, START_SECONDS, "a first version")

    def folders(self) -> list[Path]:
        states = [self.home.root / "state" / name for name in STATES]
        return [*(self.home.root / name for name in PLACES), *states]

    @property
    def ports(self) -> Ports:
        base = int(self.environment["DURAMEN_PORT_BASE"])
        return Ports.model_validate({"base": base, **from_base(base)})

    def start(self) -> None:
        command = [sys.executable, "-m", "infra.local", "up", "--home", str(self.home.root)]
        log = self.home.root / "up.log"
        with log.open("ab") as file:
            done = subprocess.run(command, cwd=ROOT, env=self.environment, stdout=file, stderr=file)
        assert done.returncode == 0, log.read_text()[-2000:]

    def start_other(self, module: str) -> None:
        """Start it with another supervisor."""
        command = [sys.executable, "-m", module, str(self.home.root)]
        with (self.home.logs / "supervisor.log").open("ab") as log:
            subprocess.run(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, check=True
            )
        self.until(lambda: status(self.home)["phase"] == "ready", START_SECONDS, "it is ready")

    def store(self) -> Minio:
        """Return a client of the store who may do all."""
        keys = Secrets.ensure(self.home.secrets).keys("admin", "store")
        return client(self.ports.url("store"), keys, connections())

    def jobs(self) -> int:
        return len(json.loads(self.duramen("queue", "list", "--json").text)["jobs"])

    def stop(self) -> None:
        down(self.home.root)

    def end(self) -> None:
        """Stop it and take its file systems away, with all that is on them."""
        if supervisor_pid(self.home) is not None:
            self.stop()
        for folder in self.mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(self.home.root)

    def duramen(self, *words: str, before: Sequence[str] = (), seconds: float = 150) -> Said:
        command = [*before, sys.executable, "-m", "services.ctl", *words]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            return Said(None, (error.stdout or b"").decode(errors="replace"))
        return Said(done.returncode, ESCAPES.sub("", done.stdout.decode(errors="replace")))

    def drop(self, **settings: Any) -> str:
        """Put a file that was never seen into the inbox; return its name."""
        number = next(self.dropped)
        rows = b"".join(line_of(c) + b"\n" for c in tiny_conversations(12, start=100 * number))
        name = f"file-{number:03}.jsonl"
        inbox = self.home.inbox
        if settings:
            (inbox / f"{name}.json").write_text(json.dumps(settings))
        (inbox / f".{name}.part").write_bytes(rows)
        (inbox / f".{name}.part").rename(inbox / name)
        return name

    def versions(self) -> int:
        """Return how many are published; -1 while that cannot be said."""
        said = self.duramen("versions", "list", "--json", seconds=30)
        try:
            return sum(row["state"] == "published" for row in json.loads(said.text))
        except (ValueError, TypeError, KeyError):
            return -1

    def troubles(self) -> list[str]:
        """Return the lines that `status` begins with while something is wrong."""
        said = self.duramen("status")
        if said.status != 0:
            return said.lines
        return [line for line in said.lines if "Next: " in line]

    def pid(self, program: str) -> int:
        """Return the process that runs now, or 0."""
        return int(status(self.home)["programs"].get(program, {}).get("pid") or 0)

    @contextmanager
    def beset(self, program: str, how: signal.Signals) -> Iterator[None]:
        """Send a signal to whatever is started as `program`, until the block ends."""
        over = threading.Event()

        def go() -> None:
            while not over.wait(0.3):
                send(self.pid(program), how)

        thread = threading.Thread(target=go)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            send(self.pid(program), signal.SIGCONT)

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> float:
        """Return after how many seconds it holds. TimeoutError naming `what`."""
        begun = time.monotonic()
        while True:
            if condition():
                return time.monotonic() - begun
            if time.monotonic() - begun > seconds:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}")
            time.sleep(1)


def send(pid: int, how: signal.Signals) -> None:
    if pid:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return


def mount(folder: Path, size: int) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    subprocess.run(command, check=True)


def resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no space on the file system of a folder."""
    usage = shutil.disk_usage(folder)
    resize(folder, max(usage.used, 4096))
