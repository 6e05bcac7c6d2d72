"""A program of an embedded run: started in a session of its own, restarted when it dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.watch import Watch
from infra.log_files import keep_bounded
from shared.backoff import Backoff

ROOT = Path(__file__).resolve().parent.parent.parent
FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 10.0
STEADY_SECONDS = 30.0  # after that long a death counts as a first one again
ILL_STOP_SECONDS = 20.0  # a program that is ill gets SIGKILL after that long


def spawn(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` so that it dies with this process. Call it from the main thread only.

    Output is appended to `log`.
    """
    wrapper = [sys.executable, "-m", "infra.local.child", str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*wrapper, *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@dataclass
class Program:
    """A program that should be running."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    healthy: Callable[[], bool]
    watch: Watch
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    _started: float = 0.0
    _kill_at: float | None = None
    _delay: Backoff = field(
        default_factory=lambda: Backoff(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
    )

    def start(self) -> None:
        self.process = spawn(self.command, self.log, self.environment)
        self._started, self._kill_at = time.monotonic(), None
        self.watch.began()

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def tend(self) -> int | None:
        """Restart the program if it has ended, after a short and growing delay.

        Returns its exit status if its end was noticed just now.
        """
        keep_bounded(self.log)
        if self.process is None:
            if self._delay.is_over:
                self._delay.grow()  # the start itself may fail
                self.start()
                self.restarts += 1
            return None
        status = self.process.poll()
        if status is None:
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self.process.kill()
            return None
        if time.monotonic() - self._started > STEADY_SECONDS:
            self._delay.end()
        self._delay.grow()
        self.process = None
        return status

    def end_if_ill(self) -> str:
        """Ask the program to end if it has been ill for too long; return why, or "".

        It gets SIGKILL later, if it hangs.
        """
        if self.process is None or self._kill_at is not None:
            return ""
        why = self.watch.verdict()
        if why:
            self._kill_at = time.monotonic() + ILL_STOP_SECONDS
            self.ask_to_end()
        return why

    def ask_to_end(self) -> None:
        """Send SIGTERM, if the program runs."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def await_end(self, seconds: float) -> bool:
        """Wait for the program's end; return False if it had to be killed.

        It gets SIGKILL after `seconds`.
        """
        if self.process is None:
            return True
        try:
            self.process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return True
