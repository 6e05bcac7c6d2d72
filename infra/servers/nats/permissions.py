"""The permissions of users to publish and hear on the bus: least privilege, an entry for each.

The verb is the last token of a job's or a ledger's subject, so that it can be granted service by
service. A permission covers subjects that a client names itself, not the reply subject of a request
(the server answers anywhere): readers of JOBS and CTL therefore check each record.
"""

from dataclasses import dataclass

from shared.bus.system import SERVER_QUESTIONS, subject_of

STREAMS_GRANTED = ("JOBS", "CTL", "OBS", "EVT", "LEASE")

JOB_VERBS = {
    "ingest": ("submit", "amend"),
    "ctl": ("move", "remove", "retry"),
    "trainer": ("run", "requeue", "done", "fail", "skip"),
}
LINE_VERBS = {
    "ctl": ("create",),
    "trainer": ("open", "close"),
    "vault": ("rollback",),
}
LEASES = {"trainer": "lease.trainer.>", "vault": "lease.vault.>"}
# Each user also reads what it writes: after an unclear acknowledgement it looks for its own nonce.
READS = {
    "ingest": ("JOBS", "CTL", "OBS", "EVT"),
    "trainer": STREAMS_GRANTED,
    "vault": STREAMS_GRANTED,
    "evolution": STREAMS_GRANTED,
    "herald": ("JOBS", "CTL", "OBS", "EVT"),
    "ctl": STREAMS_GRANTED,
}


@dataclass(frozen=True)
class Grant:
    """The subjects that one user may publish and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def read_subjects(stream: str) -> list[str]:
    """Return the requests by which a user reads `stream`.

    They are for the last message, the state, and pull consumers of its own. Acknowledgements are
    not granted: consumers are ephemeral with no ack policy, and each reader keeps its own mark.
    """
    return [
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
    ]


def grant(user: str) -> Grant:
    """Return the permissions of `user` (not of admin, who is not restricted)."""
    publish = [f"jobs.rec.*.*.*.{verb}" for verb in JOB_VERBS.get(user, ())]
    publish += [f"jobs.line.*.{verb}" for verb in LINE_VERBS.get(user, ())]
    publish += [LEASES[user]] if user in LEASES else []
    publish += [f"evt.{user}.>"]
    hear = [f"_INBOX_{user}.>", "jobs.>", "evt.>"]
    if user == "ctl":
        publish += ["ctl.desired.*", "ctl.once.*"]
        hear += ["ctl.>"]
    else:
        publish += [f"ctl.observed.{user}.*"]
        hear += [f"ctl.desired.{user}", f"ctl.once.{user}"]
    if user in ("vault", "evolution"):
        hear += ["ctl.observed.>"]
    publish += ["$JS.API.INFO"]
    for stream in READS[user]:
        publish += read_subjects(stream)
    return Grant(tuple(publish), tuple(hear))


def system_grant(user: str) -> Grant:
    """Return the permissions of the user of the server's own account: to ask how it is."""
    return Grant(tuple(subject_of(each) for each in SERVER_QUESTIONS), (f"_INBOX_{user}.>",))
