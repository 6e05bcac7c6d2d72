"""The only provisioner: streams, buckets, locks, and the proof that bus and stores can be trusted.

    python -m infra.servers.bootstrap

The embedded run, the tests and the containers all start with it. It may be run again at any time;
it changes only what differs, and fails closed: if a bus does not sync, or a store fails the
conformance probe, it ends with an error that names what is lacking.
"""

import asyncio
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import nats
from minio import Minio
from minio.error import MinioAdminException
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.secrets.secrets import IDENTITIES, SYSTEM_USER, Secrets
from infra.servers import conformance
from infra.servers import minio as minio_users
from infra.servers.buckets import (
    LockMode,
    client,
    connections,
    make_backup_buckets,
    make_store_buckets,
)
from infra.servers.streams import make_streams
from shared import setting_names
from shared.bus.system import BusServer
from shared.errors import DuramenError


class BusUnsafe(DuramenError):
    """The bus acknowledges messages before they are on the disk."""

    exit_code = 8
    next_step = "set `sync_interval: always` in nats.conf and restart the server"


class StoreLies(DuramenError):
    """The store accepts requests that it must refuse, so it cannot be trusted with versions."""

    exit_code = 8

    def __init__(self, store: str, what: str) -> None:
        self.store, self.what = store, what
        super().__init__(f"{store} failed the conformance probe: {what}.")


class BootstrapSettings(BaseSettings):
    """The addresses of the servers, and the folder of all secrets.

    The secrets are described in infra/secrets/secrets.py.
    """

    model_config = SettingsConfigDict(env_prefix="DURAMEN_", extra="ignore", frozen=True)

    nats_url: str = Field(description="The address of the bus.")
    nats_ca: Path | None = Field(
        default=None, description="The certificate authority of a bus with TLS (`tls://…`)."
    )
    store_url: str = Field(description="The address of the first store.")
    backup_url: str = Field(description="The address of the backup.")
    secrets_dir: Path = Field(description="The folder of all secrets.")
    store_inner_urls: list[str] = Field(
        default_factory=list,
        description="Ports of the store behind S3, as JSON; each must refuse a stranger.",
    )
    backup_inner_urls: list[str] = Field(
        default_factory=list,
        description="Ports of the backup behind S3, as JSON; each must refuse a stranger.",
    )
    backup_retention_days: int = Field(
        default=30, ge=1, description="How long nothing in the backup can be deleted."
    )
    backup_lock: LockMode = Field(
        default="GOVERNANCE",
        description="Who may free the backup's space before then: its server's administrator "
        "(`GOVERNANCE`), or nobody (`COMPLIANCE`).",
    )
    store_kind: Literal["seaweedfs", "minio"] = Field(
        default="seaweedfs",
        description="Which server the stores are: MinIO receives its users, SeaweedFS reads them.",
    )


async def bootstrap(settings: BootstrapSettings) -> None:
    """Provision everything, then probe it. Raises BusUnsafe or StoreLies; idempotent."""
    secrets = Secrets(settings.secrets_dir)
    await assert_sync(settings.nats_url, secrets, settings.nats_ca)
    await provision_bus(settings.nats_url, secrets, settings.nats_ca)
    await asyncio.gather(
        asyncio.to_thread(provision_store, settings, secrets),
        asyncio.to_thread(provision_backup, settings, secrets),
    )


async def assert_sync(nats_url: str, secrets: Secrets, ca: Path | None = None) -> None:
    """Raise BusUnsafe unless the server syncs each write before it answers."""
    varz = await BusServer(nats_url, secrets.seed_file(SYSTEM_USER), ca).ask("VARZ")
    if varz.get("jetstream", {}).get("config", {}).get("sync_always") is not True:
        raise BusUnsafe


async def provision_bus(nats_url: str, secrets: Secrets, ca: Path | None = None) -> None:
    """Create or update all streams, as the administrator."""
    options = {"tls": ssl.create_default_context(cafile=ca)} if ca else {}
    connection = await nats.connect(
        nats_url,
        nkeys_seed=str(secrets.seed_file("admin")),
        name="bootstrap",
        inbox_prefix=b"_INBOX_admin",
        allow_reconnect=False,
        **options,
    )
    try:
        await make_streams(connection.jetstream(timeout=30))
    finally:
        await connection.close()


def provision_store(settings: BootstrapSettings, secrets: Secrets) -> None:
    """Make the buckets of the first store, then probe it with every service's credentials.

    Raises StoreLies.
    """
    _make_users("store", settings.store_url, settings, secrets)
    with _clients("store", settings.store_url, secrets) as clients:
        admin, vault = clients.pop("admin"), clients.pop("vault")
        make_store_buckets(admin)
        lacks = conformance.probe_store(admin, vault, clients, settings.store_inner_urls)
    _refuse("store", lacks)


def provision_backup(settings: BootstrapSettings, secrets: Secrets) -> None:
    """Make the bucket and set the retention of the backup, then probe it. Raises StoreLies."""
    _make_users("backup", settings.backup_url, settings, secrets)
    with _clients("backup", settings.backup_url, secrets) as clients:
        admin, vault = clients.pop("admin"), clients.pop("vault")
        make_backup_buckets(admin, settings.backup_retention_days, settings.backup_lock)
        lacks = conformance.probe_backup(admin, vault, clients, settings.backup_inner_urls)
    _refuse("backup", lacks)


def _make_users(server: str, url: str, settings: BootstrapSettings, secrets: Secrets) -> None:
    if settings.store_kind != "minio":
        return
    pool = connections()
    try:
        minio_users.provision(url, server, secrets, pool)
    except MinioAdminException as error:
        raise StoreLies(server, f"its users cannot be provisioned: {error}") from error
    finally:
        pool.clear()


@contextmanager
def _clients(server: str, url: str, secrets: Secrets) -> Iterator[dict[str, Minio]]:
    """Yield one client for each identity of `server`, over shared connections."""
    pool = connections()
    try:
        yield {name: client(url, secrets.keys(name, server), pool) for name in IDENTITIES[server]}
    finally:
        pool.clear()


def _refuse(name: str, lacks: list[str]) -> None:
    if lacks:
        raise StoreLies(name, "; ".join(lacks))


def main() -> int:
    try:
        setting_names.refuse_unknown(os.environ)
        asyncio.run(bootstrap(BootstrapSettings()))
    except DuramenError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return error.exit_code
    print(
        "bootstrap: streams, buckets and locks are in place; bus and both stores passed the probe"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
