"""The Docker engine, used by its own command line. Uses only the standard library."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.compose.host import ROOT, HostRefused

OLDEST_ENGINE = (20, 10)
OLDEST_COMPOSE = (2, 24, 4)  # knows !override and !reset

# What docker says -> what to do.
REMEDIES = {
    "permission denied while trying to connect": (
        "this user is not allowed to use Docker: sudo usermod -aG docker $USER, then log in again"
    ),
    "Cannot connect to the Docker daemon": "Docker is not running: sudo systemctl start docker",
    "'compose' is not a docker command": "install Compose: the package docker-compose-plugin",
    "unknown flag: --short": "install Compose: the package docker-compose-plugin",
}


def docker(*words: str, seconds: float = 60) -> str:
    """Return the output of one docker command. Raises HostRefused with its error message."""
    try:
        done = subprocess.run(
            ["docker", *words], cwd=ROOT, capture_output=True, text=True, timeout=seconds
        )
    except FileNotFoundError as error:
        raise HostRefused("docker is not installed; see docs.docker.com/engine/install") from error
    except subprocess.TimeoutExpired as error:
        raise HostRefused(f"`docker {words[0]}` does not answer in {seconds:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip() or f"`docker {' '.join(words)}` failed"
        raise HostRefused(next((does for told, does in REMEDIES.items() if told in said), said))
    return done.stdout.strip()


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: (2, 24, 4) for "v2.24.4-desktop.1"."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found.group(1).split(".")) if found else (0,)


class Compose:
    """The command `docker compose` for one installation."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}

    def run(self, *words: str) -> int:
        """Run in the foreground; return the exit status."""
        return subprocess.run(
            ["docker", "compose", *words], cwd=ROOT, env=self._environment
        ).returncode

    def logged(self, log: Path, *words: str) -> None:
        """Run with all output in `log`. Raises HostRefused with the end of it if it fails."""
        with log.open("ab") as output:
            done = subprocess.run(
                ["docker", "compose", "--progress", "plain", *words],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise HostRefused(f"`docker compose {' '.join(words)}` failed (see {log}):\n{tail}")

    def output(self, *words: str) -> str:
        done = subprocess.run(
            ["docker", "compose", "--progress", "quiet", *words],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise HostRefused(done.stderr.strip())
        return done.stdout.strip()

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return what `compose ps` says of each container, including stopped ones."""
        output = self.output("ps", "--all", "--format", "json", *services)
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def running(self) -> Sequence[str]:
        """Return the services that have a running container."""
        return [c["Service"] for c in self.containers() if c["State"] == "running"]
