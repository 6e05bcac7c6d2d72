"""The settings of vault."""

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import StoreSettings


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
