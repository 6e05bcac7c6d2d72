"""The ports that the containers publish, all on 127.0.0.1: the same as those of the embedded run.

Standard library alone. What is not named here is never published.
"""

from collections.abc import Mapping

from infra.ports import DEFAULT_BASE, OFFSETS, port_setting

PUBLISHED = (
    *("nats", "store", "backup", "ingest", "trainer", "vault", "evolution"),
    *("grafana", "herald"),
)


def published(settings: Mapping[str, str]) -> dict[str, int]:
    """Each port by name, from DURAMEN_PORT_* in `settings`."""
    base = int(settings.get("DURAMEN_PORT_BASE") or DEFAULT_BASE)
    return {n: int(settings.get(port_setting(n)) or base + OFFSETS[n]) for n in PUBLISHED}
