"""Start, stop and look at an embedded run."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.local.environment import (
    origins_of_chosen,
    process_environment,
    settings_for,
    user_settings,
    with_user_settings,
    write_env,
)
from infra.local.home import Home
from infra.local.ports import Ports
from infra.local.programs import ROOT
from infra.local.servers import PACKAGES, binary
from infra.local.supervisor import last_line
from infra.log_files import keep_bounded
from infra.ports import PREFIX as PORT_PREFIX
from infra.secrets.secrets import Secrets
from shared import setting_names
from shared.errors import UnknownSettings
from shared.service_names import SERVICES

LAUNCH_SECONDS = 30  # until the supervisor lives, whatever it then starts
START_SECONDS = 660  # longer than the supervisor waits for its slowest program
STOP_SECONDS = 90
Say = Callable[[str], None]


class NotStarted(Exception):
    """The run did not come up; the message says why."""


def supervisor_pid(home: Home) -> int | None:
    """Return the process id of the live supervisor of `home`, or None."""
    try:
        with home.pid_file.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read().strip() or 0) or None
    except FileNotFoundError:
        pass
    return None


def status(home: Home) -> dict[str, Any]:
    """Return what the supervisor last wrote; the phase is "stopped" if none lives."""
    if supervisor_pid(home) is None:
        return {"phase": "stopped", "programs": {}}
    try:
        found: dict[str, Any] = json.loads(home.status_file.read_text())
    except FileNotFoundError:
        return {"phase": "starting", "waiting_for": "supervisor", "programs": {}}
    return found


def up(root: Path, say: Say = print, *, services: bool = True) -> Home:
    """Start the run of `root`, or find it running; return once all of it is healthy.

    Raises PortTaken, ServerMissing or NotStarted. Idempotent.
    """
    home = make_ready(root, say)
    if supervisor_pid(home) is not None:
        say(f"already running: {home.root}")
    else:
        _launch(home, services=services)
    _await_ready(home, say)
    return home


def make_ready(root: Path, say: Say = print) -> Home:
    """Prepare all that a supervisor of `root` needs, unless one lives.

    Raises PortTaken, ServerMissing or NotStarted.
    """
    refuse_unknown_settings(say)
    refuse_odd_path(root)
    home = Home.make(root, say)
    apply_user_settings()
    if supervisor_pid(home) is None:
        for name in PACKAGES:
            binary(name)
        ports = Ports()
        ports.refuse_taken()
        prepare(home, ports)
        home.status_file.unlink(missing_ok=True)
    return home


def refuse_unknown_settings(say: Say) -> None:
    """Say which of the user's settings have no effect. Raises NotStarted if one is unknown."""
    try:
        warning = setting_names.refuse_unknown(user_settings())
    except UnknownSettings as error:
        raise NotStarted(str(error)) from error
    if warning:
        say(warning)


def refuse_odd_path(root: Path) -> None:
    """Raise NotStarted for a path that the files in which it is written could not hold."""
    path = str(root.absolute())
    if len(path.splitlines()) > 1 or os.fsencode(path).decode(errors="replace") != path:
        raise NotStarted(
            f"The path {path!r} contains a line break, or is not UTF-8. Choose another folder."
        )


def prepare(home: Home, ports: Ports) -> None:
    """Write the secrets, and one file of settings for each program."""
    secrets = Secrets.ensure(home.secrets)
    for program in (*SERVICES, "bootstrap"):
        values = with_user_settings(settings_for(program, home, ports, secrets))
        write_env(home.run / f"{program}.env", values)
    own = with_user_settings(settings_for("ctl", home, ports, secrets))
    write_env(home.env_file, {**own, "DURAMEN_ORIGINS": origins_of_chosen()})


def apply_user_settings() -> None:
    """Take DURAMEN_PORT_* from .env, unless the environment says otherwise."""
    for name, value in user_settings().items():
        if name.startswith(PORT_PREFIX):
            os.environ.setdefault(name, value)


def _launch(home: Home, *, services: bool) -> None:
    command = [sys.executable, "-m", "infra.local.supervisor", str(home.root), "--detach"]
    log = home.log("supervisor")
    keep_bounded(log)
    with log.open("ab") as output:
        # It detaches itself: this call returns at once, and no child of this process is left.
        subprocess.run(
            command if services else [*command, "--servers-only"],
            cwd=ROOT,
            env=process_environment(user_settings()),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + LAUNCH_SECONDS
    while supervisor_pid(home) is None and not home.status_file.exists():
        if time.monotonic() > deadline:
            raise NotStarted(f"the supervisor does not start: {last_line(log)} (see {log})")
        time.sleep(0.05)


def _await_ready(home: Home, say: Say) -> None:
    """Wait until the phase is ready, and say what is waited for.

    Raises NotStarted if the start fails.
    """
    said, deadline = "", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        now = _read_status(home)
        phase, waiting = now.get("phase"), now.get("waiting_for", "")
        if phase == "ready":
            return
        if phase in ("failed", "stopped") or supervisor_pid(home) is None:
            _await_gone(home)
            raise NotStarted(now.get("error") or last_line(home.log("supervisor")))
        if waiting and waiting != said:
            say(f"waiting for {waiting}")
            said = waiting
        time.sleep(0.1)
    raise NotStarted(f"not ready after {START_SECONDS} s: still waiting for {said}")


def _await_gone(home: Home) -> None:
    """Wait until a failed supervisor has ended what it started, so that `up` finds it gone."""
    deadline = time.monotonic() + STOP_SECONDS
    while supervisor_pid(home) is not None and time.monotonic() < deadline:
        time.sleep(0.1)


def _read_status(home: Home) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(home.status_file.read_text())
    except FileNotFoundError:
        return {}
    return found


def down(root: Path, say: Say = print) -> bool:
    """Stop the run of `root`; return False if none was running. No data are touched."""
    home = Home(root.absolute())
    pid = supervisor_pid(home)
    if pid is None:
        say(f"not running: {home.root}")
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while supervisor_pid(home) is not None:
        if time.monotonic() > deadline:
            # Its children die with it; all of them are made to survive that.
            os.kill(pid, signal.SIGKILL)
            deadline += STOP_SECONDS
        time.sleep(0.1)
    say(f"stopped: {home.root}")
    return True
