"""Prometheus with the project's own rules, and the herald, beside an embedded run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from infra.local.environment import process_environment
from infra.local.ports import free_ports
from infra.ports import HOST
from infra.secrets.secrets import SYSTEM_USER, Secrets
from shared.service_names import SERVICES
from tests.faults.run import ROOT, Run

RULES = ROOT / "infra" / "prometheus"


@contextmanager
def watched(run: Run) -> Iterator[str]:
    """Yield the address of a Prometheus that asks the services of `run` and its herald."""
    folder = run.home.root / "watched"
    folder.mkdir()
    ports, own = run.ports, free_ports()
    addresses = {name: f"{HOST}:{getattr(ports, name)}" for name in SERVICES}
    addresses["herald"] = f"{HOST}:{own.console}"
    shutil.copy(RULES / "rules.yml", folder)
    (folder / "prometheus.yml").write_text(configuration(addresses))
    prometheus = f"http://{HOST}:{own.ingest}"
    programs = (
        (prometheus_command(folder, own.ingest), None),
        ([sys.executable, "-m", "services.herald"], herald(run, own.console, prometheus)),
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command, environment in programs:
            with (folder / f"{len(started)}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
                )
        yield prometheus
    finally:
        for program in started:
            program.terminate()
            program.wait(30)


def configuration(addresses: dict[str, str]) -> str:
    """Return what infra/prometheus/prometheus.yml says, with these addresses."""
    asked = [{"targets": [at], "labels": {"service": name}} for name, at in addresses.items()]
    every = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    jobs = [{"job_name": "duramen", "static_configs": asked}]
    # JSON is YAML.
    return json.dumps({"global": every, "rule_files": ["rules.yml"], "scrape_configs": jobs})


def prometheus_command(folder: Path, port: int) -> list[str]:
    return [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'measured'}",
        f"--web.listen-address={HOST}:{port}",
    ]


def herald(run: Run, port: int, prometheus: str) -> dict[str, str]:
    secrets = Secrets.ensure(run.home.secrets)
    health = {name: f"{run.ports.url(name)}/status" for name in ("store", "backup")}
    settings = {
        "NATS_URL": f"nats://{HOST}:{run.ports.nats}",
        "NATS_SEED_FILE": str(secrets.seed_file("herald")),
        "NATS_MONITOR_SEED_FILE": str(secrets.seed_file(SYSTEM_USER)),
        "STATE_DIR": str(run.home.state("herald")),
        "HTTP_HOST": HOST,
        "HTTP_PORT": str(port),
        "HTTP_TOKEN": secrets.token("herald"),
        "STORE_HEALTH_URLS": json.dumps(health),
        "PROMETHEUS_URL": prometheus,
        "TORCH": "cpu",
    }
    return process_environment({f"DURAMEN_{name}": value for name, value in settings.items()})


def alerts(prometheus: str) -> dict[str, str]:
    """Return the state of each alert that is pending or firing, by its name."""
    with urlopen(f"{prometheus}/api/v1/alerts", timeout=10) as answer:
        found = json.load(answer)["data"]["alerts"]
    return {alert["labels"]["alertname"]: alert["state"] for alert in found}
