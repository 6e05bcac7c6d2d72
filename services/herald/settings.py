"""The settings of the herald."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from shared.settings import Settings


class HeraldSettings(Settings):
    """The settings of the herald: notifications, Grafana's annotations, and what it measures."""

    service = "herald"
    may_be_empty = frozenset({"notify_urls"})

    notify_urls: SecretStr = Field(
        default=SecretStr(""),
        description="Where notifications go: Apprise addresses, separated by spaces. They are "
        "secret, since they hold passwords.",
    )
    nats_monitor_seed_file: Path = Field(
        description="The file with the key that may ask the bus how its server is."
    )
    store_health_urls: dict[str, str] = Field(
        default_factory=dict,
        description="Where to ask whether a store is healthy: JSON, an address for each name.",
    )
    prometheus_url: str = Field(description="The address of Prometheus.")
    torch: Literal["cuda", "cpu"] = Field(
        default="cuda", description="Whether the trainer is expected to have a GPU."
    )
    grafana_url: str = Field(
        default="", description="The address of Grafana. Left empty, no annotations are made."
    )
    grafana_password: SecretStr | None = Field(
        default=None, description="The password of Grafana's user `duramen`."
    )

    @model_validator(mode="after")
    def grafana_has_a_password(self) -> Self:
        if self.grafana_url and self.grafana_password is None:
            raise ValueError("grafana_url needs grafana_password")
        return self
