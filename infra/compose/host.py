"""This host's choices for the containers: read, completed, and handed on.

They come from .env and the environment. Uses only the standard library: `make up` needs nothing but
Python and Docker.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.compose.ports import published
from infra.env_file import read_env
from infra.ports import port_setting
from shared import setting_names

ROOT = Path(__file__).resolve().parent.parent.parent
FIXED_ID = 10001
PRECIOUS = ("bus", "store", "backup", "archive")
STORES = ("minio", "seaweedfs")
TORCH = ("cuda", "cpu")
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")  # in DURAMEN_NATS_TLS_DIR
# What is not worked out here but must be the same when `duramen doctor` looks at this host again.
CHOSEN = ("DURAMEN_STORE", "DURAMEN_ACCEPT_ONE_DISK", "DURAMEN_TRAINER_GPUS", "DURAMEN_WITHOUT")


class HostRefused(Exception):
    """Something prevents the start; the message says what to do about it."""


def one_of(settings: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = settings.get(name) or allowed[0]
    if value not in allowed:
        raise HostRefused(f"{name}={value}: it may be {' or '.join(allowed)}")
    return value


@dataclass(frozen=True)
class Host:
    """The settings of one installation. `home` holds secrets and what is rendered from them."""

    settings: Mapping[str, str]
    home: Path
    store: str
    torch: str
    ports: Mapping[str, int]
    uid: int
    gid: int
    project: str = "duramen"
    without: tuple[str, ...] = field(default=())
    origins: str = ""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> "Host":
        """Read the settings from .env beside this checkout, and the environment, which wins."""
        outside = os.environ if environ is None else environ
        settings = {**read_env(ROOT / ".env"), **outside}
        home = Path(settings.get("DURAMEN_HOME") or "data/compose")
        # Root does not own files in its containers: the fixed user does.
        uid, gid = os.getuid(), os.getgid()
        return cls(
            settings=settings,
            home=(ROOT / home).absolute(),
            store=one_of(settings, "DURAMEN_STORE", STORES),
            torch=one_of(settings, "DURAMEN_TORCH", TORCH),
            ports=published(settings),
            uid=uid or FIXED_ID,
            gid=gid if uid else FIXED_ID,
            project=settings.get("COMPOSE_PROJECT_NAME") or "duramen",
            without=tuple((settings.get("DURAMEN_WITHOUT") or "").split()),
            origins=setting_names.origins(settings, outside),
        )

    @property
    def inbox(self) -> Path:
        return (ROOT / (self.settings.get("DURAMEN_INBOX_DIR") or "inbox")).absolute()

    @property
    def models(self) -> Path:
        """The folder of the models that `base add /models/NAME` finds."""
        chosen = self.settings.get("DURAMEN_MODELS_DIR")
        return (ROOT / chosen).absolute() if chosen else self.home / "models"

    def folder(self, name: str) -> Path | None:
        """Return DURAMEN_BACKUP_DIR or DURAMEN_ARCHIVE_DIR if set, a folder instead of a volume."""
        chosen = self.settings.get(f"DURAMEN_{name.upper()}_DIR")
        return (ROOT / chosen).absolute() if chosen else None

    @property
    def accepts_one_disk(self) -> bool:
        return self.settings.get("DURAMEN_ACCEPT_ONE_DISK", "").lower() in ("yes", "true", "1")

    @property
    def tls(self) -> bool:
        """Return whether the bus uses TLS."""
        return self.settings.get("DURAMEN_NATS_TLS", "").lower() in ("yes", "true", "1")

    @property
    def files(self) -> list[str]:
        """The compose files, in order."""
        chosen = ["compose.yaml"]
        if self.tls:
            chosen.append("compose.tls.yaml")
        if self.torch == "cpu":
            chosen.append("compose.cpu.yaml")
        if self.store == "seaweedfs":
            chosen.append("compose.seaweedfs.yaml")
        if "grafana" in self.without:
            chosen.append("compose.without-grafana.yaml")
        return chosen + (self.settings.get("DURAMEN_COMPOSE_FILES") or "").split()

    @property
    def version(self) -> str:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return str(project["version"])

    def image(self, service: str) -> str:
        return f"duramen-{service}:{self.version}"

    def computed(self, domains: int) -> dict[str, str]:
        """Return the values that compose.yaml needs besides the user's own settings."""
        values = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": ":".join(self.files),
            "DURAMEN_HOME": str(self.home),
            "DURAMEN_CHECKOUT": str(ROOT),
            "DURAMEN_INBOX_DIR": str(self.inbox),
            "DURAMEN_HOST_UID": str(self.uid),
            "DURAMEN_HOST_GID": str(self.gid),
            "DURAMEN_VOLUMES": self.project,
            "DURAMEN_VERSION": self.version,
            "DURAMEN_TORCH": self.torch,
            "DURAMEN_FAILURE_DOMAINS": str(domains),
            "DURAMEN_MODELS_DIR": str(self.models),
            "DURAMEN_RESTORE_DIR": str(self.home / "restored"),
        }
        for name in ("backup", "archive"):
            # Empty, not left out: otherwise compose takes that of .env, which may be another's.
            values[f"DURAMEN_{name.upper()}_DIR"] = str(self.folder(name) or "")
        if "grafana" in self.without:
            values["DURAMEN_GRAFANA_URL"] = ""
        values |= {name: self.settings[name] for name in CHOSEN if self.settings.get(name)}
        return values | {port_setting(name): str(port) for name, port in self.ports.items()}
