"""A systemd user unit that starts an embedded run at boot, and again when it has ended.

    python -m infra.local.unit install|uninstall|status [--home DIR]

`install` writes the unit, enables and starts it; no data are ever touched. A user's units start
at boot only where lingering is on, which `install` asks systemd for.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from infra.local.environment import process_environment, user_settings
from infra.local.lifecycle import NotStarted, down, make_ready
from infra.local.ports import PortTaken
from infra.local.programs import ROOT
from infra.local.servers import ServerMissing

NAME = "duramen.service"
UNIT_STOP_SECONDS = 120  # a checkpoint is written and stored before the end


class NoSystemd(Exception):
    """This host runs no systemd for this user; the message says what to do instead."""


def unit_text(home: Path) -> str:
    """Return the unit that runs the supervisor of `home` in the foreground."""
    command = [sys.executable, "-m", "infra.local.unit", "run", "--home", str(home)]
    return f"""\
[Unit]
Description=Duramen, embedded in {_escaped(str(home))}
StartLimitIntervalSec=0

[Service]
WorkingDirectory={_escaped(str(ROOT))}
ExecStart={" ".join(_word(each) for each in command)}
Restart=on-failure
RestartSec=10
KillMode=mixed
TimeoutStopSec={UNIT_STOP_SECONDS}

[Install]
WantedBy=default.target
"""


def unit_path() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "systemd" / "user" / NAME


def install_unit(home: Path) -> None:
    """Write the unit, enable it and start it. Raises NoSystemd before anything is changed."""
    systemctl("show-environment")
    down(home)  # what `make local` started would hold the ports
    path = unit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(unit_text(home))
    systemctl("daemon-reload")
    systemctl("enable", "--now", NAME)
    lingers = subprocess.run(["loginctl", "enable-linger"], capture_output=True).returncode == 0
    print(f"installed: {path}")
    if not lingers:
        print("It starts when you log in. To start it at boot: sudo loginctl enable-linger $USER")


def uninstall_unit() -> None:
    """Stop the run and remove the unit. The data stay."""
    systemctl("disable", "--now", NAME)
    unit_path().unlink(missing_ok=True)
    systemctl("daemon-reload")
    print(f"removed: {unit_path()}; the data stay")


def systemctl(*words: str) -> str:
    """Run systemctl for this user; return what it printed. Raises NoSystemd if it refuses."""
    try:
        done = subprocess.run(["systemctl", "--user", *words], capture_output=True, text=True)
    except FileNotFoundError:
        raise NoSystemd("This host has no systemd. Start the run with: make local") from None
    if done.returncode and words[0] != "is-active":
        said = done.stderr.strip() or done.stdout.strip()
        raise NoSystemd(f"systemd refused `{' '.join(words)}`: {said}. Instead: make local")
    return done.stdout.strip()


def become_supervisor(home: Path) -> None:
    """Become the supervisor of `home`. Raises NotStarted, PortTaken or ServerMissing."""
    make_ready(home)
    command = [sys.executable, "-m", "infra.local.supervisor", str(home)]
    environment = process_environment(user_settings())
    os.execve(sys.executable, command, environment)  # noqa: S606 - the unit's main process


def _word(text: str) -> str:
    """Return `text` as one word of a command in a unit: neither specifier nor variable."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escaped(quoted).replace("$", "$$")}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local.unit", description=__doc__)
    parser.add_argument("action", choices=("install", "uninstall", "status", "run"))
    parser.add_argument("--home", type=Path, default=Path("data/local"))
    arguments = parser.parse_args()
    home = arguments.home.absolute()
    try:
        if arguments.action == "install":
            install_unit(home)
        elif arguments.action == "uninstall":
            uninstall_unit()
        elif arguments.action == "status":
            state = systemctl("is-active", NAME) if unit_path().exists() else "not installed"
            print(f"{NAME}: {state}")
        else:
            become_supervisor(home)
    except (NoSystemd, NotStarted, PortTaken, ServerMissing, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
