"""What a run prints of itself: start-up, memory, hardening, images, as the engine tells them."""

import json
import time
from collections.abc import Iterator

from infra.compose.engine import docker
from infra.compose.smoke import Smoke


def ids(smoke: Smoke) -> dict[str, str]:
    """Container of each service that still runs."""
    found = smoke.compose.containers()
    return {str(c["Service"]): str(c["ID"]) for c in found if c["State"] == "running"}


def startup(smoke: Smoke, since: float) -> Iterator[str]:
    """Seconds from each container's start to its first good health check."""
    output = docker(
        *("events", "--since", f"{since:.0f}", "--until", f"{time.time() + 1:.0f}"),
        *("--filter", f"label=com.docker.compose.project={smoke.host.project}"),
        *("--filter", "type=container", "--format", "{{json .}}"),
    )
    started: dict[str, int] = {}
    seen: set[str] = set()
    for line in output.splitlines():
        event = json.loads(line)
        service = str(event["Actor"]["Attributes"].get("com.docker.compose.service"))
        if event["Action"] == "start":
            started.setdefault(service, event["timeNano"])
        if event["Action"] == "health_status: healthy" and service not in seen:
            seen.add(service)
            took = (event["timeNano"] - started[service]) / 1e9
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
