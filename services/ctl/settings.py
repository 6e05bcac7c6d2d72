"""The settings of ctl."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class CtlSettings(BaseSettings):
    """The settings of the `duramen` command."""

    model_config = SettingsConfigDict(env_prefix="DURAMEN_", extra="ignore", frozen=True)

    nats_url: str = Field(description="The address of the bus.")
    nats_seed_file: Path = Field(description="The file with the command line's key for the bus.")
    nats_ca: Path | None = Field(
        default=None, description="The certificate authority of a bus with TLS (`tls://…`)."
    )
    nats_monitor_seed_file: Path | None = Field(
        default=None, description="The file with the key that may ask the bus how its server is."
    )
    store_url: str = Field(description="The address of the first store.")
    store_access_key: SecretStr = Field(description="The command line's access key for the store.")
    store_secret_key: SecretStr = Field(description="The command line's secret key for the store.")
    backup_url: str = Field(description="The address of the backup.")
    backup_access_key: SecretStr = Field(description="A read-only access key for the backup.")
    backup_secret_key: SecretStr = Field(description="The secret key that belongs to it.")
    archive_dir: Path | None = Field(
        default=None, description="The archive, if it can be seen from here."
    )
    inbox_dir: Path | None = Field(
        default=None, description="The inbox, if it can be seen from here."
    )
    checkout: Path | None = Field(
        default=None,
        description="On the host of an installation in containers: the checkout, whose preflight "
        "`duramen doctor` repeats.",
    )
    hub_token_file: Path | None = Field(
        default=None,
        description="A file with a token of the model hub, which `duramen base add` reads.",
    )
    state_dir: Path | None = Field(
        default=None, description="A folder on the disk whose free space `duramen doctor` shows."
    )
    logs_dir: Path | None = Field(
        default=None, description="The folder with the logs of an embedded run."
    )
    supervisor_file: Path | None = Field(
        default=None,
        description="The file in which the supervisor of an embedded run says what is wrong.",
    )
    origins: str = Field(
        default="",
        description="Where the user's own settings stand, for `duramen settings`.",
    )
    ingest_url: str = Field(default="", description="The address of ingest.")
    ingest_token: SecretStr | None = Field(default=None, description="The token of ingest.")
    trainer_url: str = Field(default="", description="The address of trainer.")
    trainer_token: SecretStr | None = Field(default=None, description="The token of trainer.")
    vault_url: str = Field(default="", description="The address of vault.")
    vault_token: SecretStr | None = Field(default=None, description="The token of vault.")
    evolution_url: str = Field(default="", description="The address of evolution.")
    evolution_token: SecretStr | None = Field(default=None, description="The token of evolution.")
    herald_url: str = Field(default="", description="The address of herald.")
    herald_token: SecretStr | None = Field(default=None, description="The token of herald.")
    wait_seconds: float = Field(
        default=120.0, gt=0, description="How long a command waits for its effect to be seen."
    )
