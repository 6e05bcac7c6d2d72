"""The vault's alarms, with the metrics that show them."""

from prometheus_client import Counter, Gauge

from shared.bus.client import Bus
from shared.service.alarms import Alarms, service_alarms

ALARMS = Counter("duramen_vault_alarms_total", "Alarms raised, by kind.", ["what"])
STANDING = Gauge("duramen_vault_standing_alarms", "Alarms that are active now, by kind.", ["what"])


def vault_alarms(bus: Bus) -> Alarms:
    """Return the vault's alarms, none of which stands yet."""
    return service_alarms(bus, "vault", ALARMS, STANDING)
