"""Who may do what: every door that must be closed is tried."""

import asyncio
import io
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from minio.error import S3Error
from minio.versioningconfig import SUSPENDED, VersioningConfig
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from infra.local.environment import inner_urls
from infra.servers.conformance import answers_stranger, conditional_put
from tests.conftest import running_stack
from tests.stack import Stack

SHA = "ab" * 32
LOCAL = "127.0.0.1"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Servers of these tests alone: what they publish no service of another test shall read."""
    with running_stack() as running:
        yield running


class Member:
    """A bus connection that notes what the server refused."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.connection: Client

    async def on_error(self, error: Exception) -> None:
        self.refused.append(str(error).lower())

    async def may_publish(self, subject: str) -> bool:
        """True unless the server says that this connection may not publish to `subject`."""
        await self.connection.publish(subject, b"{}")
        return await self._allowed(f'publish to "{subject}"')

    async def may_subscribe(self, subject: str) -> bool:
        await self.connection.subscribe(subject)
        return await self._allowed(f'subscription to "{subject}"')

    async def _allowed(self, what: str) -> bool:
        # The server refuses in order: once it has refused this, it has judged all before it.
        marker = f"forbidden.{uuid.uuid4().hex}"
        await self.connection.publish(marker, b"")
        async with asyncio.timeout(10):
            while not self._heard(marker):
                await self.connection.flush()
        return not self._heard(what)

    def _heard(self, text: str) -> bool:
        return any(text.lower() in refusal for refusal in self.refused)


@asynccontextmanager
async def joined(stack: Stack, user: str) -> AsyncIterator[Member]:
    member = Member()
    member.connection = await stack.connect(user, error_cb=member.on_error)
    try:
        yield member
    finally:
        await member.connection.close()


def record(lineage: str, verb: str) -> str:
    return f"jobs.rec.{lineage}.{SHA}.1.{verb}"


MAY_PUBLISH = {
    "ingest": ["rec.submit", "rec.amend", "ctl.observed.ingest.one", "evt.ingest.refused"],
    "trainer": [
        *(f"rec.{verb}" for verb in ("run", "requeue", "done", "fail", "skip")),
        "line.open",
        "line.close",
        "ctl.observed.trainer.one",
        "evt.trainer.answered",
        "lease.trainer.gpu0",
    ],
    "vault": [
        "line.rollback",
        "ctl.observed.vault.one",
        "evt.vault.version_published",
        "lease.vault.main",
    ],
    "evolution": ["ctl.observed.evolution.one", "evt.evolution.learned"],
    "ctl": [
        "rec.move",
        "rec.remove",
        "rec.retry",
        "line.create",
        "ctl.desired.trainer",
        "ctl.desired.ingest",
        "ctl.once.trainer",
        "ctl.once.vault",
    ],
}
EVERYTHING = sorted({subject for subjects in MAY_PUBLISH.values() for subject in subjects})


def on_the_bus(lineage: str, short: str) -> str:
    kind, _, rest = short.partition(".")
    if kind == "rec":
        return record(lineage, rest)
    return f"jobs.line.{lineage}.{rest}" if kind == "line" else short


@pytest.mark.parametrize("user", MAY_PUBLISH)
async def test_each_user_publishes_its_own_verbs_and_no_others(
    stack: Stack, lineage: str, user: str
) -> None:
    # Core publishes without a record's content: readers of the shared streams call them void.
    async with joined(stack, user) as member:
        for short in EVERYTHING:
            expected = short in MAY_PUBLISH[user]
            found = await member.may_publish(on_the_bus(lineage, short))
            assert found == expected, f"{user} publishing {short}"


@pytest.mark.parametrize("user", MAY_PUBLISH)
async def test_nobody_hears_another_s_private_answers_or_commands(stack: Stack, user: str) -> None:
    others = [name for name in MAY_PUBLISH if name != user]
    async with joined(stack, user) as member:
        for other in others:
            assert not await member.may_subscribe(f"_INBOX_{other}.>")
            if user != "ctl":
                assert not await member.may_subscribe(f"ctl.once.{other}")
        assert not await member.may_subscribe(">")
        assert not await member.may_subscribe("$JS.API.>")


@pytest.mark.parametrize("user", MAY_PUBLISH)
async def test_each_user_is_woken_and_can_read_the_queue(
    stack: Stack, lineage: str, user: str
) -> None:
    admin = await stack.connect("admin")
    subject = f"evt.{user}.probe-{lineage}"
    await admin.jetstream().publish(subject, b"{}")
    async with joined(stack, user) as member:
        assert await member.may_subscribe("jobs.>")
        assert await member.may_subscribe("evt.>")
        js = member.connection.jetstream(timeout=5)
        assert (await js.stream_info("JOBS")).config.name == "JOBS"
        assert (await js.get_last_msg("EVT", subject)).data == b"{}"
        reader = await js.pull_subscribe(
            subject,
            stream="EVT",
            config=ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL),
        )
        assert [message.subject for message in await reader.fetch(1, timeout=5)] == [subject]
        await reader.unsubscribe()
        assert all("forbidden." in refusal for refusal in member.refused)
    await admin.close()


@pytest.mark.parametrize("user", MAY_PUBLISH)
async def test_nobody_changes_or_empties_a_stream(stack: Stack, user: str) -> None:
    async with joined(stack, user) as member:
        for action in ("DELETE", "PURGE", "UPDATE", "MSG.DELETE", "CREATE"):
            assert not await member.may_publish(f"$JS.API.STREAM.{action}.JOBS")
        assert not await member.may_publish("$JS.API.DIRECT.GET.JOBS")


async def test_even_the_administrator_cannot_remove_a_record(stack: Stack, lineage: str) -> None:
    admin = await stack.connect("admin")
    js = admin.jetstream()
    acknowledged = await js.publish(f"jobs.line.{lineage}.create", b"{}")
    with pytest.raises(APIError):
        await js.delete_msg("JOBS", acknowledged.seq)
    with pytest.raises(APIError):
        await js.purge_stream("JOBS")
    await admin.close()


async def test_a_rollup_header_wipes_no_lease(stack: Stack) -> None:
    trainer = await stack.connect("trainer")
    js = trainer.jetstream()
    with pytest.raises(APIError):
        await js.publish("lease.trainer.any", b"{}", headers={"Nats-Rollup": "all"})
    await trainer.close()


def test_a_stranger_is_not_let_onto_the_bus(stack: Stack) -> None:
    with socket.create_connection((LOCAL, stack.ports.nats), timeout=10) as peer:
        peer.sendall(b'CONNECT {"verbose":false}\r\nPUB jobs.line.main.create 2\r\n{}\r\nPING\r\n')
        said = b""
        while chunk := peer.recv(4096):  # the server hangs up
            said += chunk
    assert b"Authorization Violation" in said
    assert b"PONG" not in said


# The stores


def put(stack: Stack, identity: str, bucket: str, key: str, server: str = "store") -> None:
    stack.minio(identity, server).put_object(bucket, key, io.BytesIO(b"x"), 1)


def refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except S3Error as error:
        assert error.code == "AccessDenied", error
        return True
    return False


CAN_PUT = {
    "ingest": {"duramen/datasets/", "duramen/eval/"},
    "trainer": {"duramen/plans/", "work/checkpoints/", "work/staging/", "work/snapshots/"},
    "vault": {
        *(f"duramen/{part}/" for part in ("datasets", "eval", "plans", "bases")),
        *(f"duramen/{part}/" for part in ("lineages", "catalog", "audit")),
        *("work/staging/", "work/audit/"),
    },
    "evolution": set(),
    "ctl": {"work/staging/"},
    "reader": set(),
}
PREFIXES = sorted(set().union(*CAN_PUT.values()))


@pytest.mark.parametrize("identity", CAN_PUT)
def test_each_identity_writes_its_own_prefixes_and_no_others(stack: Stack, identity: str) -> None:
    for prefix in PREFIXES:
        bucket, _, rest = prefix.partition("/")
        key = f"{rest}{uuid.uuid4().hex}"
        expected = prefix in CAN_PUT[identity]
        assert refused(lambda: put(stack, identity, bucket, key)) != expected, prefix  # noqa: B023
        client = stack.minio(identity)
        status, _ = conditional_put(client, bucket, f"{key}.c", b"x", {"If-None-Match": "*"})
        assert status == (200 if expected else 403), prefix
        if expected:
            again, _ = conditional_put(client, bucket, f"{key}.c", b"x", {"If-None-Match": "*"})
            assert again == 412, prefix


@pytest.mark.parametrize("server", ["store", "backup"])
def test_nobody_deletes_what_is_precious(stack: Stack, server: str) -> None:
    key = f"lineages/{uuid.uuid4().hex}/v001/MANIFEST.json"
    put(stack, "vault", "duramen", key, server)
    version = stack.minio("vault", server).stat_object("duramen", key).version_id
    identities = CAN_PUT if server == "store" else ("vault", "reader")
    for identity in identities:
        client = stack.minio(identity, server)
        assert refused(lambda: client.remove_object("duramen", key))  # noqa: B023
        assert refused(lambda: client.remove_object("duramen", key, version_id=version))  # noqa: B023
        assert refused(lambda: client.remove_bucket("duramen"))  # noqa: B023
        suspended = VersioningConfig(SUSPENDED)
        assert refused(lambda: client.set_bucket_versioning("duramen", suspended))  # noqa: B023
        assert refused(lambda: client.delete_bucket_policy("duramen"))  # noqa: B023
    assert stack.minio("vault", server).stat_object("duramen", key).version_id == version


def test_not_even_the_administrator_deletes_from_the_backup(stack: Stack) -> None:
    key = f"lineages/{uuid.uuid4().hex}/v001/SHA256SUMS"
    put(stack, "vault", "duramen", key, "backup")
    admin = stack.minio("admin", "backup")
    version = admin.stat_object("duramen", key).version_id
    assert refused(lambda: admin.remove_object("duramen", key, version_id=version))


def test_nobody_but_the_vault_writes_the_backup(stack: Stack) -> None:
    put(stack, "vault", "duramen", f"catalog/{uuid.uuid4().hex}", "backup")
    assert refused(lambda: put(stack, "reader", "duramen", "catalog/x", "backup"))
    for identity in ("ingest", "trainer", "vault", "evolution", "ctl", "reader", "admin"):
        # The first store's keys are not known to the backup at all.
        client = stack.minio_with(stack.keys(identity), "backup")
        with pytest.raises(S3Error) as caught:
            client.put_object("duramen", "catalog/x", io.BytesIO(b"x"), 1)
        assert caught.value.code == "InvalidAccessKeyId"


def test_the_readers_read_versions_and_list_them(stack: Stack) -> None:
    key = f"catalog/{uuid.uuid4().hex}.json"
    put(stack, "vault", "duramen", key)
    put(stack, "vault", "duramen", key)
    for identity in ("vault", "ctl", "reader", "evolution"):
        client = stack.minio(identity)
        found = client.list_objects("duramen", prefix=key, include_version=True)
        versions = [entry.version_id for entry in found]
        assert len(versions) == 2, identity
        assert client.get_object("duramen", key, version_id=versions[-1]).data == b"x"


def test_a_trainer_clears_its_own_work(stack: Stack) -> None:
    key = f"checkpoints/{uuid.uuid4().hex}"
    put(stack, "trainer", "work", key)
    for identity in ("ingest", "vault", "evolution", "ctl", "reader"):
        client = stack.minio(identity)
        assert refused(lambda: client.remove_object("work", key)), identity  # noqa: B023
    stack.minio("trainer").remove_object("work", key)


def test_ingest_reads_of_the_work_bucket_what_jobs_found_and_no_more(stack: Stack) -> None:
    name = uuid.uuid4().hex
    put(stack, "trainer", "work", f"results/{name}")
    put(stack, "trainer", "work", f"checkpoints/{name}")
    get = stack.minio("ingest").get_object
    assert get("work", f"results/{name}").data == b"x"
    assert refused(lambda: get("work", f"checkpoints/{name}"))


@pytest.mark.parametrize("server", ["store", "backup"])
def test_the_inner_ports_refuse_a_stranger(stack: Stack, server: str) -> None:
    urls = inner_urls(stack.ports, server)
    grpc = [url.removeprefix("grpc://") for url in urls if url.startswith("grpc://")]
    assert len(grpc) == 4
    for address in grpc:
        assert not answers_stranger(address), address
    bucket = f"{stack.ports.url(f'{server}_filer')}/buckets/duramen"
    for method in ("GET", "PUT", "DELETE"):
        answer = httpx.request(method, f"{bucket}?recursive=true")
        assert answer.status_code == 404, (method, answer.status_code)
    volume = stack.ports.url(f"{server}_volume")
    assert httpx.delete(f"{volume}/1,0123456789ab").status_code == 401


def test_a_grpc_port_without_certificates_would_be_noticed(stack: Stack) -> None:
    # The probe's own proof: it recognises a server that answers anybody.
    with socket.create_server((LOCAL, 0)) as server:
        server.settimeout(10)
        address = f"{LOCAL}:{server.getsockname()[1]}"

        async def both() -> bool:
            asked = asyncio.to_thread(answers_stranger, address)
            answered = asyncio.to_thread(serve_settings, server)
            found, _ = await asyncio.gather(asked, answered)
            return found

        assert asyncio.run(both())


def serve_settings(server: socket.socket) -> None:
    """Answer plain HTTP/2 on the second connection (the first one asks for TLS)."""
    for _ in range(2):
        peer, _ = server.accept()
        with peer:
            if peer.recv(64).startswith(b"PRI"):
                peer.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))


def test_everything_listens_on_this_host_alone(stack: Stack) -> None:
    outside = [a for a in addresses() if not a.startswith("127.")]
    for port in stack.ports.by_name().values():
        for address in outside:
            with socket.socket() as probe:
                probe.settimeout(2)
                assert probe.connect_ex((address, port)) != 0, (address, port)


def addresses() -> list[str]:
    """This host's own IPv4 addresses."""
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    return sorted({str(entry[4][0]) for entry in found})


async def test_who_watches_the_bus_may_ask_how_it_is_and_nothing_else(stack: Stack) -> None:
    async with joined(stack, "monitor") as member:
        for question in ("HEALTHZ", "VARZ", "JSZ"):
            assert await member.may_publish(f"$SYS.REQ.SERVER.PING.{question}"), question
        for subject in (
            "$SYS.REQ.SERVER.PING.CONNZ",
            "$SYS.REQ.SERVER.PING.PROFILEZ",
            "$SYS.REQ.SERVER.ANY.RELOAD",
            "$SYS.REQ.SERVER.ANY.KICK",
            "$SYS.REQ.ACCOUNT.PING.CONNZ",
            "$SYS.REQ.CLAIMS.UPDATE",
            "$JS.API.STREAM.DELETE.JOBS",
            record("main", "done"),
        ):
            assert not await member.may_publish(subject), subject
        for subject in (">", "$SYS.>", "jobs.>", "_INBOX_ctl.>"):
            assert not await member.may_subscribe(subject), subject


async def test_no_service_reaches_the_account_of_the_server(stack: Stack) -> None:
    for user in ("ctl", "herald", "vault"):
        async with joined(stack, user) as member:
            assert not await member.may_publish("$SYS.REQ.SERVER.PING.VARZ"), user
            assert not await member.may_subscribe("$SYS.>"), user


async def test_the_bus_has_no_http_port(stack: Stack) -> None:
    assert await stack.bus_server.trouble() == ""
    found = await stack.bus_server.ask("VARZ")
    assert (found["http_port"], found["https_port"]) == (0, 0)
