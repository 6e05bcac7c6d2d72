"""The settings of herald."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from shared.settings import Settings


class HeraldSettings(Settings):
    """herald: notifications, Grafana's annotations, the metrics of bus and stores.

    `notify_urls` may be empty; they are secret, since such addresses hold passwords.
    """

    service = "herald"
    may_be_empty = frozenset({"notify_urls"})
    nats_monitor_url: str
    store_health_urls: dict[str, str] = Field(default_factory=dict)
    prometheus_url: str
    torch: Literal["cuda", "cpu"] = "cuda"  # whether the trainer is to have a GPU
    grafana_url: str = ""
    grafana_password: SecretStr | None = None
    notify_urls: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def grafana_has_a_password(self) -> Self:
        if self.grafana_url and self.grafana_password is None:
            raise ValueError("grafana_url needs grafana_password")
        return self
