"""The settings of evolution."""

from shared.settings import StoreSettings


class EvolutionSettings(StoreSettings):
    """The settings of evolution, which reads snapshots and writes only its own cache."""

    service = "evolution"
