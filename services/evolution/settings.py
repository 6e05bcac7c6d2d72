"""The settings of evolution."""

from shared.settings import StoreSettings


class EvolutionSettings(StoreSettings):
    """evolution: reads snapshots, writes nothing but its own cache."""

    service = "evolution"
