"""The settings of services, a class for each, from DURAMEN_ variables and secret files.

A secret has no default. `DURAMEN_X_FILE` may name a file that holds the value of `DURAMEN_X`.
"""

import os
import re
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PASSWORD_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s'\"]+@")
PLACEHOLDERS = {"", "changeme", "change-me", "secret", "password", "minioadmin", "admin", "token"}


def read_secret_files(prefix: str = "DURAMEN_") -> dict[str, str]:
    """Return the values of all `<prefix>*_FILE` variables that name a readable file.

    They are keyed without the prefix and _FILE, in lower case. A variable that is set itself wins.
    """
    found: dict[str, str] = {}
    for name, path in os.environ.items():
        # NATS_SEED_FILE is a path in its own right: the client library reads it.
        if name.startswith(prefix) and name.endswith("_FILE") and name != f"{prefix}NATS_SEED_FILE":
            plain = name.removesuffix("_FILE")
            if plain not in os.environ and Path(path).is_file():
                found[plain.removeprefix(prefix).lower()] = Path(path).read_text().strip()
    return found


def without_password(text: str) -> str:
    """Return a text with `…` for user and password in each address."""
    return PASSWORD_IN_ADDRESS.sub("…@", text)


class Settings(BaseSettings):
    """The settings that every service needs: the bus, its own HTTP port, a folder for its state."""

    model_config = SettingsConfigDict(
        env_prefix="DURAMEN_", extra="ignore", frozen=True, defer_build=True
    )
    service: ClassVar[str]
    may_be_empty: ClassVar[frozenset[str]] = frozenset()

    nats_url: str = Field(description="The address of the bus.")
    nats_seed_file: Path = Field(description="The file with the service's key for the bus.")
    nats_ca: Path | None = Field(
        default=None, description="The certificate authority of a bus with TLS (`tls://…`)."
    )
    state_dir: Path = Field(description="The folder for the service's own state.")
    http_host: str = Field(
        default="127.0.0.1", description="The address on which the service answers HTTP."
    )
    http_port: int = Field(description="The port on which the service answers HTTP.")
    http_token: SecretStr = Field(description="The token that a request to the service must bear.")
    disk_reserve_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="How many bytes stay free on each disk: what would need more than there is "
        "above them waits, and says so.",
    )
    log_level: str = Field(
        default="info", description="The least severe messages that are logged: `debug` is most."
    )

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
            raise ValueError(
                "is a placeholder; generate a real secret (infra/secrets/secrets.py does)"
            )
        return value

    def masked(self) -> dict[str, str]:
        """Return the resolved settings for the log; SecretStr masks itself."""
        return {name: without_password(str(value)) for name, value in self}


class StoreSettings(Settings):
    """The settings of a service that talks to the first store."""

    store_url: str = Field(description="The address of the first store.")
    store_access_key: SecretStr = Field(description="The service's access key for the store.")
    store_secret_key: SecretStr = Field(description="The service's secret key for the store.")


class LeaseSettings(StoreSettings):
    """The settings of a service that must know whether a trainer is still alive."""

    lease_seconds: float = Field(
        default=60.0,
        gt=0,
        description="A trainer that has been silent for this long is presumed dead.",
    )
