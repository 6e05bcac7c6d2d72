"""The settings of the vault."""

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import LeaseSettings


class VaultSettings(LeaseSettings):
    """The settings of the vault, the only service with credentials for the backup.

    It alone writes to the archive folder, too.
    """

    service = "vault"

    backup_url: str = Field(description="The address of the backup.")
    backup_access_key: SecretStr = Field(description="The vault's access key for the backup.")
    backup_secret_key: SecretStr = Field(description="The vault's secret key for the backup.")
    archive_dir: Path = Field(
        description="The third copy of every version: a plain folder, best on another disk."
    )
    backup_disk: Path | None = Field(
        default=None,
        description="The folder where the backup's server keeps its data, to measure free space.",
    )
    store_disk: Path | None = Field(
        default=None,
        description="The folder where the first store's server keeps its data, to measure free "
        "space.",
    )
    bus_disk: Path | None = Field(
        default=None, description="The folder where the bus keeps its data, to measure free space."
    )
    copies: int = Field(
        default=3, ge=2, le=3, description="How many copies there should be; fewer raise an alert."
    )
    failure_domains: int = Field(
        default=1,
        ge=1,
        description="On how many disks or hosts the copies lie. `make up` counts them; in the "
        "embedded run it is for you to say.",
    )
