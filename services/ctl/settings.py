"""The settings of ctl."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
