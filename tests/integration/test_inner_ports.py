"""What lies behind a store's S3 port takes no orders from a stranger, and S3 works without it."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest
import urllib3

from infra.local.servers import StoreServer, binary
from infra.servers.seaweed import FSYNC_SET
from shared.store.place import PRECIOUS
from shared.store.s3 import PART_BYTES, Store
from tests.stack import Stack

SERVERS = ["store", "backup"]
NOT_FOUND = 404
TUS = {
    "Tus-Resumable": "1.0.0",
    "Upload-Length": "1",
    "Upload-Offset": "0",
    "Content-Type": "application/offset+octet-stream",
}


def as_vault(stack: Stack, server: str) -> Store:
    keys = stack.keys("vault", server)
    return Store(server, stack.ports.url(server), keys.access, keys.secret)


@pytest.mark.parametrize("server", SERVERS)
def test_the_master_deletes_nothing_for_a_stranger(stack: Stack, server: str) -> None:
    store, key = as_vault(stack, server), f".probe/{uuid.uuid4().hex}"
    stored = store.put_bytes(PRECIOUS, key, b"kept")
    master = stack.ports.url(f"{server}_master")
    for path in ("col/delete?collection=duramen", "vol/vacuum", "vol/grow?count=1", "dir/assign"):
        for method in ("GET", "POST"):
            answer = urllib3.request(method, f"{master}/{path}", retries=False)
            assert answer.status == NOT_FOUND, (method, path)
    store.verify(stored.ref)


@pytest.mark.parametrize("server", SERVERS)
def test_the_filer_takes_no_upload_from_a_stranger(stack: Stack, server: str) -> None:
    filer, name = stack.ports.url(f"{server}_filer"), uuid.uuid4().hex
    for path in (f".tus/buckets/duramen/{name}", f"buckets/duramen/{name}"):
        answer = urllib3.request("POST", f"{filer}/{path}", body=b"x", headers=TUS, retries=False)
        assert answer.status == NOT_FOUND, path
    assert name not in list(as_vault(stack, server).keys(PRECIOUS, ""))


@pytest.mark.parametrize("server", SERVERS)
def test_a_large_upload_in_parts_is_stored_whole(stack: Stack, server: str, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(2 * PART_BYTES + 12345))
    stored = as_vault(stack, server).put_file(PRECIOUS, f".probe/{uuid.uuid4().hex}", file)
    assert stored.size == file.stat().st_size


@pytest.mark.parametrize("server", SERVERS)
def test_every_write_waits_for_the_disk(stack: Stack, server: str) -> None:
    running = stack.servers[server]
    assert isinstance(running, StoreServer)
    shell = running.server().shell(binary("weed"))
    asked = subprocess.run(
        shell, input="fs.configure\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert FSYNC_SET.search(asked.stdout), asked.stdout + asked.stderr
