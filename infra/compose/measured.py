"""The answers of the running Prometheus, and the queries of the dashboards.

Prometheus is never published: it is asked from inside its own container. Uses only the standard
library.
"""

import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

from infra.compose.engine import Compose
from infra.compose.host import ROOT

DASHBOARDS = ROOT / "infra" / "grafana" / "dashboards"
RULES = ROOT / "infra" / "prometheus" / "rules.yml"
METRIC = re.compile(r"\bduramen_[a-z0-9_]+")
# Without a GPU there is nothing to measure.
GPU = "duramen_gpu_"
# True of a system in which nothing was ever wrong: a labelled counter has no series before then.
MAY_BE_EMPTY = (
    "duramen_ingest_refusals_total",
    "duramen_vault_standing_alarms",
    "duramen_vault_alarms_total",
    "duramen_errors_total",
    # Only if Grafana or an address is to be notified.
    "duramen_herald_waiting",
    # Only after somebody paused, stopped or skipped.
    "duramen_control_reaction_seconds",
)


def queries() -> dict[str, str]:
    """Return every query of every panel, by "dashboard: panel: letter"."""
    found = {}
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{file.stem}: {panel['title']}: {target['refId']}"] = target["expr"]
    return found


def metrics_in(text: str) -> set[str]:
    """Return the names of our metrics in a query, without the suffixes of a histogram."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in METRIC.findall(text)}


def metrics_asked() -> set[str]:
    """Return every metric in a panel or a rule."""
    rules = [line for line in RULES.read_text().splitlines() if "expr:" in line]
    return metrics_in("\n".join([*queries().values(), *rules]))


def ask_prometheus(compose: Compose, path: str, **query: str) -> Any:
    """Return `data` of one answer of Prometheus' API. Raises HostRefused."""
    url = f"http://127.0.0.1:9090/api/v1/{path}"
    if query:
        url += "?" + urllib.parse.urlencode(query)
    output = compose.output("exec", "-T", "prometheus", "wget", "-Y", "off", "-q", "-O", "-", url)
    return json.loads(output)["data"]


def series_values(compose: Compose, query: str) -> list[tuple[dict[str, str], float]]:
    """Return (labels, value) of each series."""
    result = ask_prometheus(compose, "query", query=query)["result"]
    return [(each["metric"], float(each["value"][1])) for each in result]


def empty(compose: Compose, *, with_gpu: bool) -> dict[str, str]:
    """Return the panels' queries that have no data, but should."""
    exempt = MAY_BE_EMPTY if with_gpu else (*MAY_BE_EMPTY, GPU)
    wanted = {n: q for n, q in queries().items() if not any(name in q for name in exempt)}
    return {name: query for name, query in wanted.items() if not series_values(compose, query)}


def firing(compose: Compose) -> set[str]:
    """Return the names of the alerts that fire now."""
    alerts = ask_prometheus(compose, "alerts")["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def dashboards() -> list[Path]:
    return sorted(DASHBOARDS.glob("*.json"))
