"""A probe of whether a store keeps its promises.

A store may ignore a condition, or a lock, and answer as if it had not, so it is probed, not
believed. Whatever is found lacking stops the bootstrap. Probe objects live under `.probe/`, a
prefix that no other program reads or writes.
"""

import base64
import datetime
import hashlib
import io
import socket
import ssl
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, GOVERNANCE
from minio.error import S3Error
from minio.retention import Retention

from infra.servers.buckets import PRECIOUS
from shared import reach
from shared.store import layout

DENIED = {"AccessDenied", "MethodNotAllowed", "InvalidRequest", "ObjectLocked"}
FAILED = 412
HTTP_OK = 200
PRESIGNED = datetime.timedelta(minutes=5)
LOCK_SECONDS = 60
FIRST_REFUSAL = 400
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

_http = reach.pool(timeout=20, retries=False)


def conditional_put(
    store: Minio, bucket: str, key: str, body: bytes, headers: dict[str, str]
) -> tuple[int, str]:
    """Send a PUT with If-None-Match or If-Match; return (HTTP status, ETag).

    The client library cannot send these headers itself (in `metadata` they are silently renamed),
    so the request is presigned and sent with them.
    """
    url = store.presigned_put_object(bucket, key, expires=PRESIGNED)
    answer = _http.request("PUT", url, body=body, headers=headers)
    return answer.status, answer.headers.get("etag", "")


def probe_store(
    admin: Minio, vault: Minio, others: dict[str, Minio], inner_urls: list[str]
) -> list[str]:
    """Return what the first store lacks, as sentences; empty if it can be trusted.

    `others`: clients of the other services by identity. `inner_urls`: addresses of ports that must
    refuse, as http://HOST:PORT or grpc://HOST:PORT (none where they cannot be reached from here).
    """
    lacks = (
        _conditions(admin)
        + _checksums(admin)
        + _versions(admin)
        + _lock(admin, vault, by_default=False)
    )
    lacks += _denials(vault, "vault", delete=True, write=None)
    for identity, client in others.items():
        lacks += _denials(
            client, identity, delete=True, write=layout.CATALOG + layout.PROBES + identity
        )
    return lacks + _inner(inner_urls)


def probe_backup(
    admin: Minio, vault: Minio, others: dict[str, Minio], inner_urls: list[str]
) -> list[str]:
    """Return what the backup lacks, as sentences; empty if it can be trusted.

    `others` are identities that may only read there.
    """
    lacks = (
        _conditions(admin)
        + _checksums(admin)
        + _versions(admin)
        + _lock(admin, vault, by_default=True)
    )
    lacks += _denials(vault, "vault", delete=True, write=None)
    for identity, client in others.items():
        lacks += _denials(client, identity, delete=True, write=layout.PROBES + identity)
    return lacks + _inner(inner_urls)


def _fresh(name: str) -> str:
    return f"{layout.PROBES}{name}/{uuid.uuid4().hex}"


def _conditions(admin: Minio) -> list[str]:
    """Try conditional create and conditional replace, twice each: the second must fail."""
    key, lacks = _fresh("condition"), []
    status, etag = conditional_put(admin, PRECIOUS, key, b"one", {"If-None-Match": "*"})
    if status != HTTP_OK or not etag:
        return [f"a conditional create of a fresh key answered {status}"]
    status, _ = conditional_put(admin, PRECIOUS, key, b"two", {"If-None-Match": "*"})
    if status != FAILED:
        lacks.append(f"a second create with If-None-Match answered {status}, not 412")
    status, _ = conditional_put(admin, PRECIOUS, key, b"three", {"If-Match": etag})
    if status != HTTP_OK:
        lacks.append(f"a replacement with the right If-Match answered {status}")
    status, _ = conditional_put(admin, PRECIOUS, key, b"four", {"If-Match": etag})
    if status != FAILED:
        lacks.append(f"a replacement with a stale If-Match answered {status}, not 412")
    return lacks


def _checksums(admin: Minio) -> list[str]:
    """Check that bytes with a wrong checksum are refused, and leave nothing behind."""
    key, body = _fresh("checksum"), b"these bytes"
    wrong = base64.b64encode(hashlib.md5(b"others", usedforsecurity=False).digest()).decode()
    status, _ = conditional_put(admin, PRECIOUS, key, body, {"Content-MD5": wrong})
    if status < FIRST_REFUSAL:
        return [f"bytes with a wrong checksum were accepted ({status})"]
    try:
        admin.stat_object(PRECIOUS, key)
    except S3Error:
        return []
    return ["bytes with a wrong checksum were refused, but kept"]


def _versions(admin: Minio) -> list[str]:
    """Check that versioning is on, and the first version of a replaced key can still be read."""
    if admin.get_bucket_versioning(PRECIOUS).status != ENABLED:
        return [f"versioning is not on in bucket {PRECIOUS}"]
    key = _fresh("version")
    first = _put(admin, key, b"first")
    _put(admin, key, b"second")
    if first is None or _read(admin, key, first) != b"first":
        return ["the first version of a replaced key cannot be read"]
    return []


def _lock(admin: Minio, vault: Minio, *, by_default: bool) -> list[str]:
    """Check that nobody without the right to bypass it deletes a version under retention."""
    key = _fresh("lock")
    version = _put(admin, key, b"locked")
    if by_default and not _is_retained(admin, key, version):
        return ["a new object is not put under retention by default"]
    if not by_default:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=LOCK_SECONDS)
        wanted = Retention(GOVERNANCE, until)
        try:
            admin.set_object_retention(PRECIOUS, key, wanted, version_id=version)
        except S3Error as error:
            return [f"a retention cannot be set ({error.code})"]
        if not _is_retained(admin, key, version):
            return ["a retention that was set cannot be read back"]
    lacks = []
    for name, client in (("the administrator", admin), ("the vault", vault)):
        if not _refused(lambda c=client: c.remove_object(PRECIOUS, key, version_id=version)):  # type: ignore[misc]
            lacks.append(f"{name} deleted a version under retention without a bypass")
    return lacks


def _is_retained(admin: Minio, key: str, version: str | None) -> bool:
    try:
        return admin.get_object_retention(PRECIOUS, key, version_id=version) is not None
    except S3Error:
        # Servers say in many ways that there is none, and none of them is a retention.
        return False


def _denials(client: Minio, identity: str, *, delete: bool, write: str | None) -> list[str]:
    lacks = []
    if delete and not _refused(lambda: client.remove_object(PRECIOUS, _fresh("denied"))):
        lacks.append(f"{identity} may delete in bucket {PRECIOUS}")
    if write and not _refused(lambda: _put(client, write, b"")):
        lacks.append(f"{identity} may write {PRECIOUS}/{write}")
    return lacks


def _inner(urls: list[str]) -> list[str]:
    """Check that ports behind S3 refuse a request without a token or a certificate."""
    lacks = []
    for url in urls:
        if url.startswith("grpc://"):
            if answers_stranger(url.removeprefix("grpc://")):
                lacks.append(f"{url} answers a client without a certificate")
        elif _accepts("DELETE", f"{url}/buckets/{layout.PROBES}none?recursive=true"):
            lacks.append(f"{url} carries out a DELETE without credentials")
        elif _accepts("GET", f"{url}/dir/status"):
            lacks.append(f"{url} is a master that accepts commands without credentials")
    return lacks


def _accepts(method: str, url: str) -> bool:
    """Return whether a stranger's request is not refused.

    What the request names does not exist, or is only read: even on an open port, nothing would be
    lost by trying.
    """
    try:
        return _http.request(method, url).status < FIRST_REFUSAL
    except urllib3.exceptions.HTTPError:
        return False


def answers_stranger(address: str) -> bool:
    """Return whether the gRPC port at HOST:PORT talks HTTP/2 without a client certificate."""
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for tls in (True, False):
        try:
            with ExitStack() as opened:
                peer = opened.enter_context(socket.create_connection((host, int(port)), timeout=5))
                if tls:
                    peer = opened.enter_context(context.wrap_socket(peer))
                peer.sendall(HTTP2_HELLO)
                # A server that accepts the client sends its own settings frame (type 4).
                if peer.recv(9)[3:4] == b"\x04":
                    return True
        except OSError:
            continue
    return False


def _refused(action: Callable[[], Any]) -> bool:
    try:
        action()
    except S3Error as error:
        return error.code in DENIED
    return False


def _put(client: Minio, key: str, body: bytes) -> str | None:
    return client.put_object(PRECIOUS, key, io.BytesIO(body), len(body)).version_id


def _read(client: Minio, key: str, version: str) -> bytes:
    answer = client.get_object(PRECIOUS, key, version_id=version)
    try:
        return answer.data
    finally:
        answer.close()
        answer.release_conn()
