"""The systemd unit of an embedded run is one that systemd accepts, for a home of any path."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.local.unit import NAME, NoSystemd, systemctl, unit_text


@pytest.mark.parametrize("name", ["home", "a b", '50% "of" $HOME', "Größe;x"])
def test_systemd_accepts_the_unit(tmp_path: Path, name: str) -> None:
    path = tmp_path / NAME
    path.write_text(unit_text(tmp_path / name))
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd is not here")
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [tool, "--user", "verify", str(path)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_host_without_systemd_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoSystemd, match="make local"):
        systemctl("show-environment")
