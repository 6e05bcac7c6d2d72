"""Where nothing runs, or what runs hangs, every command ends soon and says what to start."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.environment import settings_for
from infra.local.home import Home
from infra.local.ports import Ports
from infra.local.programs import ROOT
from infra.secrets.secrets import Secrets
from tests.command_line import without_settings
from tests.ports import own_ports

pytestmark = pytest.mark.slow
AWAY = 6
NOTHING_SECONDS, HANGS_SECONDS = 3.0, 5.0
TWO_STORES = {"restore"}  # asks the backup after the first store: it may take as long again


def check_each_command(settings: dict[str, str], folder: Path, limit: float) -> None:
    """Run every command with these settings in `folder`, and see that each ends as it must."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.each_command", str(limit)],
        cwd=folder,
        env={**without_settings(), "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    ended = json.loads(ran.stdout)
    assert {"status", "queue list", "pause", "doctor", "check"} < ended.keys()
    for words, (code, seconds, said) in ended.items():
        assert code == AWAY, (words, code, said)
        assert "make local, or make up" in said, (words, said)
        assert "Traceback" not in said, (words, said)
        assert seconds < limit * (2 if words in TWO_STORES else 1), (words, seconds)


def settings_at(ports: Ports, folder: Path) -> dict[str, str]:
    """Return the command line's settings for an embedded run on `ports`, which need not run."""
    home = Home.make(folder / "home")
    settings = settings_for("ctl", home, ports, Secrets.ensure(home.secrets))
    return {**settings, "DURAMEN_HERALD_URL": ports.url("console")}


@pytest.fixture
def hanging() -> Iterator[Ports]:
    """Ports that take connections and then say nothing."""
    ports = own_ports()
    listeners = [
        socket.create_server(("127.0.0.1", port), backlog=64) for port in ports.by_name().values()
    ]
    yield ports
    for listener in listeners:
        listener.close()


def test_every_command_ends_soon_where_nothing_listens(tmp_path: Path) -> None:
    check_each_command(settings_at(own_ports(), tmp_path), tmp_path, NOTHING_SECONDS)


def test_every_command_ends_soon_where_nothing_was_ever_started(tmp_path: Path) -> None:
    check_each_command({}, tmp_path, NOTHING_SECONDS)


def test_every_command_ends_soon_where_all_hangs(tmp_path: Path, hanging: Ports) -> None:
    check_each_command(settings_at(hanging, tmp_path), tmp_path, HANGS_SECONDS)
