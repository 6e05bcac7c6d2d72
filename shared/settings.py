"""Settings, one class a service, from the environment (prefix DURAMEN_) and secret files.

A secret has no default. `DURAMEN_X_FILE` may name a file that holds the value of `DURAMEN_X`.
"""

import os
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PLACEHOLDERS = {"", "changeme", "change-me", "secret", "password", "minioadmin", "admin", "token"}


# Settings of earlier versions that are constants now. Jobs still choose their own weight decay and
# cooldown.
RETIRED = (
    "DURAMEN_SCAN_SECONDS",
    "DURAMEN_UNFINISHED_SECONDS",
    "DURAMEN_RETRY_SECONDS",
    "DURAMEN_SWEEP_SECONDS",
    "DURAMEN_WEIGHT_DECAY",
    "DURAMEN_COOLDOWN_FRACTION",
)


def read_secret_files(prefix: str = "DURAMEN_") -> dict[str, str]:
    """Values of all `<prefix>*_FILE` variables that name a readable file, keyed without _FILE."""
    found: dict[str, str] = {}
    for name, path in os.environ.items():
        # NATS_SEED_FILE is a path in its own right: the client library reads it.
        if name.startswith(prefix) and name.endswith("_FILE") and name != f"{prefix}NATS_SEED_FILE":
            plain = name.removesuffix("_FILE")
            if plain not in os.environ and Path(path).is_file():
                found[plain.removeprefix(prefix).lower()] = Path(path).read_text().strip()
    return found


class Settings(BaseSettings):
    """What every service needs: the bus, its own HTTP port, a folder for its own state."""

    model_config = SettingsConfigDict(
        env_prefix="DURAMEN_", extra="ignore", frozen=True, defer_build=True
    )
    service: ClassVar[str]
    may_be_empty: ClassVar[frozenset[str]] = frozenset()

    nats_url: str
    nats_seed_file: Path
    # The CA of a bus that is spoken to by TLS (tls://…), else None.
    nats_ca: Path | None = None
    state_dir: Path
    http_host: str = "127.0.0.1"
    http_port: int
    http_token: SecretStr
    lease_seconds: float = Field(default=60.0, gt=0)
    log_level: str = "info"

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read environment and secret files. Raises pydantic.ValidationError naming each field."""
        return cls(**{**read_secret_files(), **overrides})

    @field_validator("*")
    @classmethod
    def refuse_placeholder(cls, value: object, info: ValidationInfo) -> object:
        if info.field_name in cls.may_be_empty and value == SecretStr(""):
            return value
        if isinstance(value, SecretStr) and value.get_secret_value().lower() in PLACEHOLDERS:
            raise ValueError("is a placeholder; generate a real secret (infra/secrets.py does)")
        return value

    def masked(self) -> dict[str, str]:
        """The resolved settings for the log; SecretStr masks itself."""
        return {name: str(value) for name, value in self}


class StoreSettings(Settings):
    """A service that talks to the first store."""

    store_url: str
    store_access_key: SecretStr
    store_secret_key: SecretStr


class IngestSettings(StoreSettings):
    """ingest: the inbox belongs to it alone."""

    service = "ingest"
    inbox_dir: Path
    settle_seconds: float = Field(default=2.0, ge=0)
    max_row_bytes: int = Field(default=64 * 2**20, gt=0)
    max_upload_bytes: int = Field(default=64 * 2**30, gt=0)


class TrainerSettings(StoreSettings):
    """trainer: one GPU, one folder of checkpoints. Training settings are a job's defaults."""

    service = "trainer"
    # What to train on. `cuda` is never answered with the CPU; `auto` takes what is there.
    device: Literal["auto", "cuda", "cpu"] = "auto"
    learning_rate: float = Field(default=2e-4, gt=0)
    epochs: int = Field(default=2, ge=1)
    batch_tokens: int = Field(default=2048, ge=16)
    max_length: int = Field(default=2048, ge=16)
    on_long: Literal["set_aside", "truncate", "refuse"] = "set_aside"
    micro_tokens: int = Field(default=1024, ge=16)
    # `auto`: where the estimate says that it does not fit otherwise, or memory ran out before.
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    # What of the device's memory the trainer may plan with; None: all of it that is free.
    memory_limit: int | None = Field(default=None, gt=0)
    clip: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    neftune_alpha: float = Field(default=0.0, ge=0)
    eval_fraction: float = Field(default=0.05, ge=0, le=0.5)
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    # How long the store may be away before it is said; training goes on, uploads follow.
    store_away_seconds: float = Field(default=300.0, gt=0)
    snapshot_fraction: float = Field(default=0.05, ge=0)
    snapshot_allowance_seconds: float = Field(default=60.0, ge=0)
    threads: int | None = Field(default=None, ge=1)


class VaultSettings(StoreSettings):
    """vault: the only one with credentials for the backup, and the archive folder."""

    service = "vault"
    backup_url: str
    backup_access_key: SecretStr
    backup_secret_key: SecretStr
    archive_dir: Path
    # Where the backup's server keeps its data, if that can be seen from here: for its free space.
    backup_disk: Path | None = None
    copies: int = Field(default=3, ge=2, le=3)
    # On how many disks or hosts the copies lie: the vault cannot see behind an S3 address.
    failure_domains: int = Field(default=1, ge=1)


class EvolutionSettings(StoreSettings):
    """evolution: reads snapshots, writes nothing but its own cache."""

    service = "evolution"


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


class CtlSettings(BaseSettings):
    """The `duramen` command: reads the streams and the stores, sends commands, writes no data.

    `reader_*` are the read-only keys that a user pastes into any S3 client.
    """

    model_config = SettingsConfigDict(env_prefix="DURAMEN_", extra="ignore", frozen=True)

    nats_url: str
    nats_seed_file: Path
    nats_ca: Path | None = None
    nats_monitor_url: str = ""
    store_url: str
    store_access_key: SecretStr
    store_secret_key: SecretStr
    reader_access_key: SecretStr
    reader_secret_key: SecretStr
    backup_url: str
    backup_access_key: SecretStr
    backup_secret_key: SecretStr
    archive_dir: Path | None = None
    inbox_dir: Path | None = None
    # Of an installation in containers, seen from its host: whose preflight `doctor` repeats.
    checkout: Path | None = None
    # May be empty. Only `base add` reads it; without one the hub's own settings count.
    hub_token_file: Path | None = None
    state_dir: Path | None = None  # whose disk `doctor` looks at
    ingest_url: str = ""
    ingest_token: SecretStr | None = None
    trainer_url: str = ""
    trainer_token: SecretStr | None = None
    vault_url: str = ""
    vault_token: SecretStr | None = None
    evolution_url: str = ""
    evolution_token: SecretStr | None = None
    herald_url: str = ""
    herald_token: SecretStr | None = None
    wait_seconds: float = Field(default=120.0, gt=0)
