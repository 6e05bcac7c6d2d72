"""The project is no library: its version, its environment, its command."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from infra.compose.host import Host
from infra.local import install
from shared.program import program_version

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    version = PROJECT["project"]["version"]
    monkeypatch.delenv("DURAMEN_VERSION", raising=False)
    assert Host.load({}).version == version == program_version()
    for path in (*ROOT.glob("compose*.yaml"), ROOT / "services/Dockerfile", ROOT / "Makefile"):
        assert version not in path.read_text(), path
    # Without it neither an image is built nor a container started.
    compose = (ROOT / "compose.yaml").read_text()
    assert compose.count("${DURAMEN_VERSION:?") == compose.count("${DURAMEN_VERSION")
    assert "ARG VERSION\n" in (ROOT / "services/Dockerfile").read_text()


def test_nothing_of_the_project_can_be_installed_or_uploaded() -> None:
    assert "build-system" not in PROJECT
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]
    assert not {"scripts", "gui-scripts", "entry-points"} & set(PROJECT["project"])


def test_the_command_runs_this_checkout_whatever_lies_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "a folder" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for name in ("services", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('of another project')\n")
    monkeypatch.setattr(install, "PYTHON", python)
    install.write_command()
    command = [str(python.with_name("duramen")), "queue", "list", "--help"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: duramen queue list" in done.stdout


def test_makefile_stays_short() -> None:
    assert len((ROOT / "Makefile").read_text().splitlines()) < 60
