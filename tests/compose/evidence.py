"""What a run prints of itself: start-up, memory, hardening, images, as the engine tells them."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from infra.compose.engine import docker
from infra.compose.smoke import Smoke


def ids(smoke: Smoke) -> dict[str, str]:
    """Container of each service that still runs."""
    found = smoke.compose.containers()
    return {str(c["Service"]): str(c["ID"]) for c in found if c["State"] == "running"}


@contextmanager
def listening(smoke: Smoke) -> Iterator[list[str]]:
    """Filled at the end: seconds from each container's start to its first good health check."""
    command = ["docker", "events", "--format", "{{json .}}"]
    label = f"label=com.docker.compose.project={smoke.host.project}"
    for wanted in (label, "event=start", "event=health_status"):
        command += ["--filter", wanted]
    said: list[str] = []
    with tempfile.TemporaryFile("w+") as output:
        listener = subprocess.Popen(command, stdout=output)
        try:
            yield said
        finally:
            listener.terminate()
            listener.wait()
            output.seek(0)
            said += startup(json.loads(line) for line in output)


def startup(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    started: dict[str, int] = {}
    for event in events:
        service = str(event["Actor"]["Attributes"].get("com.docker.compose.service"))
        if event["Action"] == "start":
            started.setdefault(service, event["timeNano"])
        if event["Action"] == "health_status: healthy" and service in started:
            took = (event["timeNano"] - started.pop(service)) / 1e9
            yield f"start-up  {service:<11} healthy after {took:5.1f} s"


def memory(smoke: Smoke) -> Iterator[str]:
    for service, container in sorted(ids(smoke).items()):
        line = docker("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", container)
        used, _, limit, pids = line.split()
        yield f"memory    {service:<11} {used} of {limit}, {pids} processes and threads"


def hardening(smoke: Smoke) -> Iterator[str]:
    fields = (
        "user={{.Config.User}} read_only={{.HostConfig.ReadonlyRootfs}} "
        "cap_drop={{.HostConfig.CapDrop}} cap_add={{.HostConfig.CapAdd}} "
        "{{.HostConfig.SecurityOpt}} pids={{.HostConfig.PidsLimit}} "
        "ports={{range $p, $b := .NetworkSettings.Ports}}{{range $b}}{{.HostIp}}:{{.HostPort}} "
        "{{end}}{{end}}"
    )
    for service, container in sorted(ids(smoke).items()):
        yield f"inspect   {service:<11} {docker('inspect', '--format', fields, container)}"


def images(smoke: Smoke) -> Iterator[str]:
    for service in ("ingest", "evolution", "herald", "bootstrap", "ctl", "trainer", "vault"):
        size = docker("image", "inspect", "--format", "{{.Size}}", smoke.host.image(service))
        yield f"image     {service:<11} {int(size) / 1e6:6.0f} MB"
