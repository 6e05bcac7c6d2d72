"""The supervisor of an embedded run: servers, bootstrap, services; restarts whatever dies.

    python -m infra.local.supervisor HOME [--detach] [--servers-only]

It is started by `python -m infra.local up` and writes what it does to HOME/run/status.json. All its
children die with it, even when it is killed.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from infra.local.environment import process_environment, settings_for, with_user_settings
from infra.local.home import Home
from infra.local.ports import Ports
from infra.local.programs import ROOT, Program
from infra.local.servers import Server, is_answering, servers, silence_of
from infra.local.status_file import write_status
from infra.local.watch import Watch
from infra.secrets.secrets import Secrets
from shared.foreign_text import plain
from shared.service_names import SERVICES

LOCK_SECONDS = 2.0
PART_SECONDS = 600  # a slow host is no reason to stop what has been started
SERVICE_STOP_SECONDS = 30
SERVER_STOP_SECONDS = 25  # a store drains its inner connections for 15 s
HOPELESS_RESTARTS = 4  # while starting; later there is no limit
BOOTSTRAPS = 3
NOT_TO_BE_TRUSTED = 8  # bootstrap's exit status: trying again makes no server better
HUNG_SECONDS = 90.0
TICK_SECONDS = 0.1


class StartFailed(Exception):
    """A part did not come up; the message names it and its log."""


class Stopped(Exception):
    """SIGTERM or SIGINT came while something was waited for."""


class Supervisor:
    """The supervisor of one home, whose lock it holds for its life."""

    def __init__(self, home: Home, *, with_services: bool = True) -> None:
        self.home = home
        self.ports = Ports()
        self.secrets = Secrets.ensure(home.secrets)
        self.with_services = with_services
        self.programs: list[Program] = []
        self.stopping = False
        self._lock: IO[str] | None = None
        self._phase = "starting"
        self._waiting_for = ""
        self._reported: dict[str, str] = {}

    def run(self) -> int:
        """Start all programs, tend them until a signal, stop them; return the exit status."""
        if not self._take_lock():
            self._say("already running")
            return 1
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._on_signal)
        try:
            self._start()
            self._report("ready")
            while not self.stopping:
                self._tick()
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it was, the children must be ended
            self._say(f"failed: {error}")
            self._report("failed", error=str(error))
            self._stop()
            return 1
        self._report("stopping")
        self._stop()
        self._report("stopped")
        return 0

    def _take_lock(self) -> bool:
        # The lock, not the number in the file, says whether a supervisor lives.
        self._lock = self.home.pid_file.open("a+")
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:  # who asks whether a supervisor lives holds it for a moment, too
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        return True

    def _on_signal(self, _signal: int, _frame: object) -> None:
        self.stopping = True

    def _start(self) -> None:
        parts = servers(self.home, self.ports, self.secrets)
        for server in parts:
            self._launch(self._server_program(server))
        for server in parts:
            self._await(server.name, server.healthy, PART_SECONDS)
            server.settle()
        self._bootstrap()
        if self.with_services:
            for service in SERVICES:
                self._launch(self._service_program(service))
            for program in self.programs[len(parts) :]:
                self._await(program.name, program.healthy, PART_SECONDS)

    def _launch(self, program: Program) -> None:
        program.start()
        self.programs.append(program)
        self._say(f"started {program.name} (pid {program.pid})")

    def _server_program(self, server: Server) -> Program:
        environment = process_environment({})
        log = self.home.log(server.name)
        command, watch = server.prepare(), server.watch()
        return Program(server.name, command, environment, log, server.healthy, watch)

    def _service_program(self, service: str) -> Program:
        url = f"{self.ports.url(service)}/healthz"
        return Program(
            name=service,
            command=[sys.executable, "-m", f"services.{service}"],
            environment=process_environment(self._settings(service)),
            log=self.home.log(service),
            healthy=lambda: is_answering(url),
            watch=Watch(lambda: silence_of(self.ports.url(service)), HUNG_SECONDS),
        )

    def _settings(self, program: str) -> dict[str, str]:
        computed = settings_for(program, self.home, self.ports, self.secrets)
        return with_user_settings(computed)

    def _bootstrap(self) -> None:
        """Run the bootstrap, more than once where it fails: on a slow host a server is late."""
        self._report("starting", waiting_for="bootstrap")
        log = self.home.log("bootstrap")
        for _ in range(BOOTSTRAPS):
            status = self._bootstrap_once(log)
            if self.stopping:
                raise Stopped
            if status in (0, NOT_TO_BE_TRUSTED):
                break
            self._tick()
        if status:
            raise StartFailed(f"bootstrap failed: {last_line(log)} (see {log})")

    def _bootstrap_once(self, log: Path) -> int:
        with log.open("ab") as output:
            done = subprocess.run(
                [sys.executable, "-m", "infra.servers.bootstrap"],
                cwd=ROOT,
                env=process_environment(self._settings("bootstrap")),
                stdout=output,
                stderr=output,
            )
        return done.returncode

    def _await(self, name: str, condition: Callable[[], bool], seconds: float) -> None:
        """Tend all programs until `condition` holds. Raises StartFailed after `seconds`."""
        self._report("starting", waiting_for=name)
        deadline = time.monotonic() + seconds
        while not condition():
            self._tick()
            if self.stopping:
                raise Stopped
            log = self.home.log(name)
            if any(p.name == name and p.restarts >= HOPELESS_RESTARTS for p in self.programs):
                raise StartFailed(f"{name} keeps ending: {last_line(log)} (see {log})")
            if time.monotonic() > deadline:
                raise StartFailed(f"{name} is not healthy after {seconds} s (see {log})")

    def _tick(self) -> None:
        for program in self.programs:
            self._tend(program)
        if self._ill() != self._reported:
            self._report(self._phase, waiting_for=self._waiting_for)
        time.sleep(TICK_SECONDS)

    def _tend(self, program: Program) -> None:
        before = program.restarts
        try:
            status = program.tend()
        except OSError as error:  # no space for its log: it is tried again later
            self._say(f"{program.name} cannot be started: {error}")
            return
        if status is not None:
            self._say(f"{program.name} ended with {status}; starting it again")
        if program.restarts != before:
            self._say(f"started {program.name} again (pid {program.pid})")
            self._report(self._phase, waiting_for=self._waiting_for)
        if why := program.end_if_ill():
            self._say(f"{program.name} is ended, to be started again: {why}")

    def _ill(self) -> dict[str, str]:
        """Return what is wrong with each program of which something is."""
        return {program.name: said for program in self.programs if (said := program.watch.said())}

    def _stop(self) -> None:
        """Stop all in reverse order: the services, then the stores, then the bus."""
        services = [p for p in self.programs if p.name in SERVICES]
        servers = [p for p in self.programs if p not in services]
        self._end_together(services, SERVICE_STOP_SECONDS)
        self._end_together(servers[1:], SERVER_STOP_SECONDS)
        self._end_together(servers[:1], SERVER_STOP_SECONDS)

    def _end_together(self, programs: list[Program], seconds: float) -> None:
        for program in programs:
            program.ask_to_end()
        deadline = time.monotonic() + seconds
        for program in programs:
            clean = program.await_end(deadline - time.monotonic())
            self._say(f"{program.name} {'ended' if clean else 'had to be killed'}")

    def _say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with suppress(OSError):  # on a full disk the programs are tended all the same
            print(f"{stamp} {text}", file=sys.stderr, flush=True)

    def _report(self, phase: str, *, waiting_for: str = "", error: str = "") -> None:
        self._phase, self._waiting_for = phase, waiting_for
        ill = self._ill()
        status: dict[str, Any] = {
            "phase": phase,
            "waiting_for": waiting_for,
            "error": error,
            "pid": os.getpid(),
            "ill": ill,
            "programs": {p.name: {"pid": p.pid, "restarts": p.restarts} for p in self.programs},
        }
        if write_status(self.home.status_file, status):
            self._reported = ill


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return plain(lines[-1]) if lines else "it left no message"


def main() -> int:
    home, *options = sys.argv[1:]
    if "--detach" in options:
        # Leave the terminal, and whoever started this: it lives on alone.
        if os.fork():
            os._exit(0)
        os.setsid()
    supervisor = Supervisor(Home(Path(home)), with_services="--servers-only" not in options)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
