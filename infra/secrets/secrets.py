"""All secrets of one installation, generated once into one folder that only its owner may enter.

Each secret is a file of its own, so that each service can be given its own and no other's:

    nats/<user>.seed                 nkey seed; the server is given public keys only
    store/<identity>.{access,secret} S3 keys, likewise under backup/
    http/<service>.token             bearer token of a service's HTTP port
    {store,backup}.inner/            CA, certificate and JWT keys of a store's inner ports
    nats.tls/                        CA, certificate and key of the bus, for when TLS is on

No secret has a default, and none is ever overwritten: to replace one, delete its file.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nkeys

from infra.secrets.certificates import certificate, keep_certificate
from infra.secrets.inner import write_inner
from shared.files import write_synced
from shared.service_names import SERVICES

NATS_USERS = (*SERVICES, "herald", "ctl", "admin")
SYSTEM_USER = "monitor"  # of the server's own account: it may ask how the server is
IDENTITIES = {
    "store": ("admin", *SERVICES, "ctl", "reader"),
    "backup": ("admin", "vault", "reader"),
}


@dataclass(frozen=True)
class Keys:
    """The credentials of one S3 identity."""

    access: str
    secret: str


def write_secret(path: Path, text: str, mode: int = 0o600) -> None:
    """Create `path` with `text`, whole or not at all. Raises FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_synced(path, text.encode(), mode, once=True)


class Secrets:
    """The folder of secrets; `ensure` fills in what is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def ensure(cls, folder: Path, file_mode: int = 0o600) -> "Secrets":
        """Generate every secret that is not there yet.

        `file_mode` 0o444 is for containers that mount single files for another user; the folder
        itself stays closed (0o700), so nobody else on the host reaches them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        found = cls(folder)
        for relative, make in found._wanted().items():
            if not (folder / relative).exists():
                write_secret(folder / relative, make(), file_mode)
        for server in IDENTITIES:
            write_inner(found.inner(server), server, file_mode)
        if not found.bus_tls.exists():
            keep_certificate(found.bus_tls, certificate("nats", "nats"), file_mode)
        return found

    def _wanted(self) -> dict[str, Callable[[], str]]:
        wanted: dict[str, Callable[[], str]] = {}
        for user in (*NATS_USERS, SYSTEM_USER):
            wanted[f"nats/{user}.seed"] = new_seed
        for server, identities in IDENTITIES.items():
            for identity in identities:
                wanted[f"{server}/{identity}.access"] = lambda: secrets.token_hex(10)
                wanted[f"{server}/{identity}.secret"] = lambda: secrets.token_urlsafe(32)
        for service in (*SERVICES, "herald", "ctl"):
            wanted[f"http/{service}.token"] = lambda: secrets.token_urlsafe(32)
        return wanted

    def seed_file(self, user: str) -> Path:
        return self.folder / "nats" / f"{user}.seed"

    def public_key(self, user: str) -> str:
        """Return the public nkey, which is what the server's configuration names."""
        pair = nkeys.from_seed(bytearray(self.seed_file(user).read_bytes().strip()))
        return str(pair.public_key.decode())

    def keys(self, identity: str, server: str = "store") -> Keys:
        folder = self.folder / server
        return Keys(
            access=(folder / f"{identity}.access").read_text().strip(),
            secret=(folder / f"{identity}.secret").read_text().strip(),
        )

    def token(self, service: str) -> str:
        return (self.folder / "http" / f"{service}.token").read_text().strip()

    def inner(self, server: str) -> Path:
        """Return the folder with what protects the inner ports of a store."""
        return self.folder / f"{server}.inner"

    @property
    def bus_tls(self) -> Path:
        """The folder with ca.pem, cert.pem and key.pem of the bus."""
        return self.folder / "nats.tls"


def new_seed() -> str:
    """Return a new nkey user seed."""
    return str(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())
