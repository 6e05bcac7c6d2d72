"""The bootstrap provisions, may be repeated, and refuses servers that cannot be trusted."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3
from minio.commonconfig import ENABLED, GOVERNANCE
from minio.versioningconfig import VersioningConfig
from nats.js.api import DiscardPolicy

from infra.local.environment import process_environment
from infra.local.home import Home
from infra.local.lifecycle import down, status, supervisor_pid, up
from infra.local.ports import PortTaken
from infra.local.programs import ROOT, spawn
from infra.local.servers import binary
from infra.ports import is_taken
from infra.secrets.secrets import NATS_USERS, Secrets
from infra.servers.bootstrap import BusUnsafe, StoreLies, assert_sync, bootstrap
from infra.servers.nats.conf import NatsConf
from infra.servers.streams import MAX_MSG_BYTES, STREAMS
from shared.service_names import SERVICES
from tests.ports import own_ports
from tests.stack import Stack, wait_until


async def test_a_second_bootstrap_changes_nothing(stack: Stack) -> None:
    connection = await stack.connect("admin")
    js = connection.jetstream()
    before = {name: (await js.stream_info(name)).config for name in STREAMS}
    await bootstrap(stack.bootstrap_settings())
    after = {name: (await js.stream_info(name)).config for name in STREAMS}
    assert before == after
    await connection.close()


async def test_a_stream_with_another_configuration_is_brought_back(own_stack: Stack) -> None:
    connection = await own_stack.connect("admin")
    js = connection.jetstream()
    config = (await js.stream_info("OBS")).config
    await js.update_stream(config.evolve(max_msgs_per_subject=4))
    await bootstrap(own_stack.bootstrap_settings())
    assert (await js.stream_info("OBS")).config.max_msgs_per_subject == 16
    await connection.close()


async def test_jobs_can_neither_lose_nor_silently_refuse_a_record(stack: Stack) -> None:
    connection = await stack.connect("admin")
    js = connection.jetstream()
    for name in ("JOBS", "CTL"):
        config = (await js.stream_info(name)).config
        assert config.deny_delete, name
        assert config.deny_purge, name
        assert config.discard == DiscardPolicy.NEW, name
        assert not config.allow_direct, name
        assert not config.allow_rollup_hdrs, name
        assert config.max_msg_size == MAX_MSG_BYTES, name
    lease = (await js.stream_info("LEASE")).config
    assert lease.max_msgs_per_subject == 1
    assert not lease.allow_rollup_hdrs
    assert not lease.allow_direct
    await connection.close()


def test_buckets_are_versioned_and_the_backup_locks_what_is_written(stack: Stack) -> None:
    for server in ("store", "backup"):
        admin = stack.minio("admin", server)
        assert admin.get_bucket_versioning("duramen").status == "Enabled"
    assert stack.minio("admin").get_bucket_versioning("work").status != "Enabled"
    config = stack.minio("admin", "backup").get_object_lock_config("duramen")
    assert config.mode == GOVERNANCE
    assert config.duration == 30


def test_every_write_to_a_bucket_waits_for_the_disk(stack: Stack) -> None:
    for name in ("store", "backup"):
        stack.servers[name].settle()  # raises if the server does not show the setting


async def test_a_bucket_without_versions_and_lock_is_refused(bare_stack: Stack) -> None:
    bare_stack.minio("admin").make_bucket("duramen")
    with pytest.raises(StoreLies, match=r"store failed .* versioning is not on"):
        await bootstrap(bare_stack.bootstrap_settings())


async def test_a_backup_without_a_lock_is_refused(bare_stack: Stack) -> None:
    backup = bare_stack.minio("admin", "backup")
    backup.make_bucket("duramen")
    backup.set_bucket_versioning("duramen", VersioningConfig(ENABLED))
    with pytest.raises(StoreLies, match=r"backup failed .* retention"):
        await bootstrap(bare_stack.bootstrap_settings())


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A web server on this host, by its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class ForgetfulProxy(BaseHTTPRequestHandler):
    """A gateway before a real store that drops conditions, as some gateways do."""

    upstream: str

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {k: v for k, v in self.headers.items() if not k.lower().startswith("if-")}
        answer = urllib3.request(
            self.command, self.upstream + self.path, body=body, headers=headers, retries=False
        )
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(answer.data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.data)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward  # noqa: N815 - the base class's names

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def forgetful_url(stack: Stack) -> Iterator[str]:
    handler = type("Handler", (ForgetfulProxy,), {"upstream": stack.store_url})
    with serving(handler) as url:
        yield url


async def test_a_store_that_ignores_conditions_is_refused(stack: Stack, forgetful_url: str) -> None:
    with pytest.raises(StoreLies) as caught:
        await bootstrap(stack.bootstrap_settings(store_url=forgetful_url))
    assert "second create with If-None-Match answered 200" in str(caught.value)
    assert "stale If-Match answered 200" in str(caught.value)


class OpenDoor(BaseHTTPRequestHandler):
    """An inner port that does what anybody says."""

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


async def test_an_open_inner_port_is_refused(stack: Stack) -> None:
    with serving(OpenDoor) as url, pytest.raises(StoreLies, match="DELETE without credentials"):
        await bootstrap(stack.bootstrap_settings(store_inner_urls=[url]))


class OpenMaster(BaseHTTPRequestHandler):
    """A master that answers anybody."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


async def test_an_open_master_is_refused(stack: Stack) -> None:
    with serving(OpenMaster) as url, pytest.raises(StoreLies, match="commands without credentials"):
        await bootstrap(stack.bootstrap_settings(store_inner_urls=[url]))


async def test_a_bus_that_does_not_sync_is_refused(tmp_path: Path) -> None:
    ports = own_ports()
    conf = NatsConf(tmp_path / "data", ports.nats)
    secrets = Secrets.ensure(tmp_path / "secrets")
    path = tmp_path / "nats.conf"
    path.write_text(conf.render(secrets).replace("sync_interval: always", 'sync_interval: "2m"'))
    server = spawn(
        [str(binary("nats-server")), "-c", str(path)], tmp_path / "log", dict(os.environ)
    )
    try:
        url = f"nats://127.0.0.1:{ports.nats}"
        wait_until(lambda: is_taken(ports.nats), 20, "nats listens")
        with pytest.raises(BusUnsafe):
            await assert_sync(url, secrets)
    finally:
        server.kill()
        server.wait()


def test_the_bootstrap_runs_as_a_program(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.servers.bootstrap"],
        cwd=ROOT,
        env=process_environment(stack.env("bootstrap")),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "passed the probe" in done.stdout


def test_secrets_are_generated_once_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = contents(Secrets.ensure(folder).folder)
    assert first == contents(Secrets.ensure(folder).folder)
    values = [text for path, text in first.items() if path.suffix in (".seed", ".secret", ".token")]
    assert len(set(values)) == len(values)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in first:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_lost_secret_is_made_anew_and_the_others_stay(tmp_path: Path) -> None:
    secrets = Secrets.ensure(tmp_path / "secrets")
    before = {user: secrets.public_key(user) for user in NATS_USERS}
    secrets.seed_file("trainer").unlink()
    after = {user: Secrets.ensure(secrets.folder).public_key(user) for user in NATS_USERS}
    assert {user for user in NATS_USERS if before[user] != after[user]} == {"trainer"}


def contents(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_rendered_bus_configuration_is_valid() -> None:
    command = [sys.executable, "-m", "infra.local.check_conf"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_embedded_run_restarts_what_dies_and_ends_with_its_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DURAMEN_PORT_BASE", str(own_ports().base))
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="duramen-test-") as folder:
        home = up(Path(folder), said.append, services=False)
        try:
            before = pids(home)
            assert set(before) == {"nats", "store", "backup"}
            os.kill(before["nats"], signal.SIGKILL)
            wait_until(lambda: pids(home).get("nats") not in (None, before["nats"]), 20, "restart")
            up(Path(folder), said.append, services=False)
            assert f"already running: {home.root}" in said
            assert stat.S_IMODE(home.env_file.stat().st_mode) == 0o600
            supervisor = supervisor_pid(home)
            assert supervisor is not None
            running = pids(home).values()
            os.kill(supervisor, signal.SIGKILL)
            wait_until(lambda: not any(alive(pid) for pid in running), 5, "its children died")
            assert status(home)["phase"] == "stopped"
        finally:
            down(Path(folder), said.append)


def test_a_taken_port_is_named_with_the_setting_to_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ports = own_ports()
    monkeypatch.setenv("DURAMEN_PORT_BASE", str(ports.base))
    with socket.create_server(("127.0.0.1", ports.store)), pytest.raises(PortTaken) as caught:
        up(tmp_path, services=False)
    assert f"{ports.store} (DURAMEN_PORT_STORE)" in str(caught.value)
    assert "DURAMEN_PORT_BASE" in str(caught.value)


def test_each_service_is_given_its_own_secrets_only(stack: Stack) -> None:
    for service in SERVICES:
        values = set(stack.env(service).values())
        for other in SERVICES:
            if other != service:
                assert stack.keys(other).secret not in values
                assert stack.secrets.token(other) not in values
                assert str(stack.seed_file(other)) not in values
        assert stack.keys("admin").secret not in values
        assert ("DURAMEN_BACKUP_SECRET_KEY" in stack.env(service)) == (service == "vault")


def pids(home: Home) -> dict[str, int]:
    return {name: each["pid"] for name, each in status(home)["programs"].items()}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed child that nobody has waited for yet is dead.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
