"""The ports that the containers publish, all on 127.0.0.1, as in the embedded run.

What is not named here is never published. Uses only the standard library.
"""

from collections.abc import Mapping

from infra.ports import DEFAULT_BASE, OFFSETS, port_setting

PUBLISHED = (
    *("nats", "store", "backup", "ingest", "trainer", "vault", "evolution"),
    *("grafana", "herald"),
)


def published(settings: Mapping[str, str]) -> dict[str, int]:
    """Return each port by name, from DURAMEN_PORT_* in `settings`."""
    base = int(settings.get("DURAMEN_PORT_BASE") or DEFAULT_BASE)
    return {n: int(settings.get(port_setting(n)) or base + OFFSETS[n]) for n in PUBLISHED}
