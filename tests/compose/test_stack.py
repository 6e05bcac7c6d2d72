"""The real compose.yaml on a real engine, with a tiny model: one installation for all tests here.

Asked for by DURAMEN_TEST_COMPOSE=yes (`make test-compose`); in order, since each stands on the one
before. Where no image can be pulled, DURAMEN_STORE, DURAMEN_TORCH, DURAMEN_COMPOSE_FILES and
DURAMEN_WITHOUT choose what can be run; what is left out is printed as not run.
"""

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from minio.error import S3Error
from nats.aio.client import Client

from infra.compose import bus_backup, lifecycle, measured
from infra.compose.engine import docker
from infra.compose.host import ROOT, HostRefused
from infra.compose.smoke import Smoke, smoke_host
from infra.secrets.secrets import Secrets
from infra.servers.buckets import client, connections
from shared.bus.client import Bus
from shared.ledger.control import Control
from tests.compose import evidence
from tests.integration.test_permissions import Member, record

ASKED = os.environ.get("DURAMEN_TEST_COMPOSE") == "yes"
pytestmark = [
    pytest.mark.skipif(not ASKED, reason="needs an engine; make test-compose"),
    pytest.mark.slow,
]
SERVICES = ("ingest", "trainer", "vault", "evolution", "herald")
SERVERS = ("nats", "store", "backup", "prometheus")


@pytest.fixture(scope="module")
def smoke() -> Iterator[Smoke]:
    host = smoke_host()
    running = Smoke(host)
    running.remove()  # what an earlier run may have left
    lifecycle.build_images(host, running.compose)
    try:
        yield running
    finally:
        for name in ("grafana",) if "grafana" in host.without else ():
            print(f"not run: {name}")
        for what, is_run in (("MinIO", host.store == "minio"), ("GPU", host.torch == "cuda")):
            if not is_run:
                print(f"not run: {what}")
        running.remove()


@pytest.fixture(scope="module")
def secrets(smoke: Smoke) -> Secrets:
    return Secrets(smoke.host.home / "secrets")


def inspect(smoke: Smoke, service: str) -> dict[str, Any]:
    container = smoke.compose.containers(service)[0]["ID"]
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def inside(smoke: Smoke, service: str, code: str) -> str:
    """Output of some Python in a service's container."""
    return smoke.compose.output("exec", "-T", service, "python", "-c", code)


def say(lines: Iterable[str]) -> None:
    print(*lines, sep="\n")


def test_it_comes_up_healthy_and_again(smoke: Smoke) -> None:
    with evidence.listening(smoke) as startup:
        smoke.up()
    say(startup)
    for service in (*SERVICES, *SERVERS):
        assert smoke.is_healthy(service), service
    before = {c["ID"] for c in smoke.compose.containers(*SERVICES, *SERVERS)}
    smoke.up()
    assert {c["ID"] for c in smoke.compose.containers(*SERVICES, *SERVERS)} == before
    # Its own settings reach its containers, though compose reads .env itself.
    told = inside(smoke, "trainer", "import os; print(os.environ['DURAMEN_NUM_TRAIN_EPOCHS'])")
    assert told == smoke.host.settings["DURAMEN_NUM_TRAIN_EPOCHS"]


def test_images_are_small_and_only_the_trainer_carries_torch(smoke: Smoke) -> None:
    say(evidence.images(smoke))

    def look(service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("image", "inspect", smoke.host.image(service)))[0]
        return found

    for service in ("ingest", "evolution"):
        assert look(service)["Size"] < 400e6, service
    assert look("vault")["Size"] < 350e6
    found = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"
    assert {name: inside(smoke, name, found) for name in SERVICES} == {
        name: str(name == "trainer") for name in SERVICES
    }
    assert inside(smoke, "trainer", "import bitsandbytes; print('there')").endswith("there")


def test_containers_are_hardened(smoke: Smoke) -> None:
    say(evidence.hardening(smoke))
    for service in (*SERVICES, *SERVERS):
        found = inspect(smoke, service)
        host = found["HostConfig"]
        assert found["Config"]["User"].split(":")[0] not in ("", "0", "root"), service
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"] > 0, service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        for ports in found["NetworkSettings"]["Ports"].values():
            assert all(port["HostIp"] == "127.0.0.1" for port in ports or []), service


def test_a_service_reaches_nothing_outside_and_writes_nowhere_else(smoke: Smoke) -> None:
    code = (
        "import socket; s = socket.socket(); s.settimeout(3)\n"
        "try: s.connect(('1.1.1.1', 443)); print('out')\n"
        "except OSError: print('shut')\n"
        "try: open('/app/x', 'w'); print('writes')\n"
        "except OSError: print('read-only')"
    )
    for service in ("ingest", "trainer", "vault", "evolution"):
        assert inside(smoke, service, code).split() == ["shut", "read-only"], service


def test_inner_ports_of_the_stores_are_shut_towards_the_network(smoke: Smoke) -> None:
    code = (
        "import socket\n"
        "for port in (8888, 9333, 8080, 18888, 19333, 18080):\n"
        "  try: socket.create_connection(('backup', port), 2); print(port)\n"
        "  except OSError: pass"
    )
    assert inside(smoke, "ingest", code) == ""


def test_each_container_has_its_own_secrets_and_no_other(smoke: Smoke) -> None:
    code = "import os; print(*sorted(os.listdir('/run/secrets')))"
    own = ["seed", "store_access", "store_secret", "token"]
    own = sorted([*own, "nats_ca"]) if smoke.host.tls else own
    for service in ("ingest", "trainer", "evolution"):
        assert inside(smoke, service, code).split() == own, service
    both = sorted([*own, "backup_access", "backup_secret"])
    assert inside(smoke, "vault", code).split() == both


def ca(smoke: Smoke) -> Path | None:
    return smoke.host.home / "run" / "nats.tls" / "ca.pem" if smoke.host.tls else None


def bus_url(smoke: Smoke) -> str:
    scheme = "tls" if smoke.host.tls else "nats"
    return f"{scheme}://127.0.0.1:{smoke.host.ports['nats']}"


async def join(smoke: Smoke, secrets: Secrets, user: str, **options: Any) -> Client:
    """A bus connection with the credentials of `user`, from the host."""
    found = ca(smoke)
    if found is not None:
        options["tls"] = ssl.create_default_context(cafile=found)
    return await nats.connect(
        bus_url(smoke),
        nkeys_seed=str(secrets.seed_file(user)),
        inbox_prefix=f"_INBOX_{user}".encode(),
        **options,
    )


DENIED = {
    "ingest": [record("main", "run"), "jobs.line.main.open", "ctl.desired.trainer"],
    "trainer": ["evt.vault.version_published", "jobs.line.main.rollback", record("main", "submit")],
    "vault": ["jobs.line.main.close", record("main", "done")],
    "evolution": [record("main", "submit"), "ctl.once.trainer"],
    "herald": [record("main", "submit"), "jobs.line.main.close", "ctl.desired.trainer"],
    "ctl": ["jobs.line.main.close", record("main", "done"), "evt.vault.version_published"],
}


@pytest.mark.parametrize("user", DENIED)
async def test_the_bus_denies_what_is_not_a_user_s_own(
    smoke: Smoke, secrets: Secrets, user: str
) -> None:
    member = Member()
    member.connection = await join(smoke, secrets, user, error_cb=member.on_error)
    try:
        for subject in DENIED[user]:
            assert not await member.may_publish(subject), subject
        assert not await member.may_publish("$JS.API.STREAM.DELETE.JOBS")
        assert not await member.may_publish("$JS.API.STREAM.PURGE.JOBS")
    finally:
        await member.connection.close()


def test_the_stores_deny_deleting_and_writing_by_the_wrong_hand(
    smoke: Smoke, secrets: Secrets
) -> None:
    pool = connections()
    at = {name: f"http://127.0.0.1:{smoke.host.ports[name]}" for name in ("store", "backup")}
    for server, identity in (
        ("store", "ingest"),
        ("store", "trainer"),
        ("store", "vault"),
        ("backup", "vault"),
        ("backup", "reader"),
    ):
        member = client(at[server], secrets.keys(identity, server), pool)
        with pytest.raises(S3Error, match="AccessDenied"):
            member.remove_object("duramen", "catalog/main/v001.json")
    stranger = client(at["backup"], secrets.keys("trainer", "store"), pool)
    with pytest.raises(S3Error):
        stranger.list_buckets()
    pool.clear()


def test_a_file_becomes_a_version_in_three_copies(smoke: Smoke) -> None:
    smoke.base()
    smoke.train()
    smoke.verify()


def test_every_panel_has_data(smoke: Smoke) -> None:
    smoke.panels()
    for name, query in measured.queries().items():
        values = [value for _, value in measured.series_values(smoke.compose, query)]
        print(f"{name}: {query} = {values}")


def test_rules_pass_prometheus_own_tool(smoke: Smoke) -> None:
    smoke.rules()


def test_the_bootstrap_proved_both_stores(smoke: Smoke) -> None:
    smoke.probe()


def test_the_command_line_works_from_the_host(smoke: Smoke) -> None:
    smoke.control()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("DURAMEN_")}
    environment["DURAMEN_ENV_FILE"] = str(smoke.host.home / "env")
    command = [sys.executable, "-m", "services.ctl", "versions", "list", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "v001" in done.stdout or '"version": 1' in done.stdout


def test_the_doctor_looks_at_host_and_services_from_the_host(smoke: Smoke) -> None:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("DURAMEN_")}
    environment["DURAMEN_ENV_FILE"] = str(smoke.host.home / "env")
    command = [sys.executable, "-m", "services.ctl", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    looks = {found["what"]: found for found in json.loads(done.stdout)}
    say(f"doctor    {what:<12} {found['ok']} {found['found']}" for what, found in looks.items())
    assert done.returncode == 0, done.stdout
    assert {"engine", "ports", "permissions", "clock", "disks", "bus", "trainer"} <= set(looks)


def test_any_s3_client_restores_a_version(smoke: Smoke, secrets: Secrets, tmp_path: Path) -> None:
    keys = secrets.keys("reader", "store")
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": keys.access,
        "AWS_SECRET_ACCESS_KEY": keys.secret,
        "AWS_REGION": "us-east-1",
    }
    aws = [sys.executable, "-m", "awscli"]
    source = "s3://duramen/lineages/main/v001/"
    endpoint = f"http://127.0.0.1:{smoke.host.ports['store']}"
    command = [*aws, "--endpoint-url", endpoint, "s3", "sync", "--quiet", source, str(tmp_path)]
    subprocess.run(command, env=environment, check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_the_bus_is_kept_and_put_back_but_not_behind_what_was_acknowledged(smoke: Smoke) -> None:
    assert lifecycle.upgrade(smoke.host, ["--no-build"]) == 0
    kept = bus_backup.find_backup(smoke.host.home / "bus-backups", None)
    smoke.control()  # acknowledged to the trainer after the backup was made
    with pytest.raises(HostRefused, match="was not restored"):
        bus_backup.restore_bus(smoke.host, smoke.compose, kept.name)
    smoke.bus()
    smoke.control()
    assert smoke.versions()


async def test_a_reply_subject_writes_no_command(smoke: Smoke, secrets: Secrets) -> None:
    """The server answers to any subject that a request names: such an answer is no record."""
    async with Bus(bus_url(smoke), secrets.seed_file("ctl"), "ctl", ca=ca(smoke)) as bus:
        before = Control("trainer")
        await before.update(bus)
        _, last = await bus.bounds("CTL")
        for user in ("ingest", "evolution", "herald"):
            member = await join(smoke, secrets, user)
            for target in ("ctl.desired.trainer", "ctl.once.trainer", "jobs.line.main.close"):
                await member.publish("$JS.API.STREAM.INFO.JOBS", b"", reply=target)
                await member.publish("$JS.API.CONSUMER.INFO.JOBS.none", b"", reply=target)
            await member.flush()
            await member.close()
        after = Control("trainer")
        await after.update(bus)
        print(f"replies that reached CTL: {(await bus.bounds('CTL'))[1] - last}; all void")
        assert (after.state, after.generation) == (before.state, before.generation)
        assert after.once == before.once
    smoke.control()  # a command of the user's still goes through, over what was left there
    smoke.drop("after.jsonl", 40)
    smoke.wait("a version over the forged ledger", lambda: len(smoke.versions()) >= 2, 240)


def test_an_alert_fires_and_ends(smoke: Smoke) -> None:
    smoke.alert()


@pytest.mark.parametrize("service", [*SERVICES, *SERVERS])
def test_what_is_killed_is_started_again(smoke: Smoke, service: str) -> None:
    smoke.kill(service)


def test_down_and_up_keeps_everything(smoke: Smoke) -> None:
    say(evidence.memory(smoke))
    smoke.again()
    smoke.verify()


def test_the_backup_moves_and_secrets_are_replaced_while_it_runs(smoke: Smoke) -> None:
    before = {c["ID"] for c in smoke.compose.containers(*SERVICES)}
    versions = smoke.versions()
    folder = smoke.host.home / "moved"
    moved = {**smoke.host.settings, "DURAMEN_BACKUP_DIR": str(folder)}
    smoke.host = replace(smoke.host, settings=moved)
    for name in ("store/vault.secret", "backup/vault.secret", "nats/vault.seed"):
        (smoke.host.home / "secrets" / name).unlink()
    smoke.up()
    smoke.verify()  # the moved copy, too
    assert any(folder.iterdir())
    assert smoke.versions() == versions
    assert {row["copies"] for row in versions} == {3}
    assert not before & {c["ID"] for c in smoke.compose.containers(*SERVICES)}


def test_nothing_is_destroyed_under_a_wrong_name(smoke: Smoke) -> None:
    with pytest.raises(HostRefused, match="nothing was deleted"):
        lifecycle.destroy(smoke.host, ["another name"])
