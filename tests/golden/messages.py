"""One message of each kind that travels on the bus, built from fixed values by today's code.

They tell a small story that follows the rules of the ledger, so that a fold takes all of it. The
imports at the top are the only tie to where things live.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared.bus.entry import EXPECTED, Entry
from shared.protocol.control import Desired, Once
from shared.protocol.events import Event
from shared.protocol.message import ObjectRef
from shared.protocol.names import (
    JobId,
    JobVerb,
    LineVerb,
    desired_subject,
    event_subject,
    lease_subject,
    line_subject,
    once_subject,
)
from shared.protocol.observed import Lease
from shared.protocol.records import (
    CheckpointRef,
    Failure,
    Head,
    JobRecord,
    JobSettings,
    LineageSettings,
    LineClose,
    LineCreate,
    LineOpen,
    LineRecord,
    LineRollback,
    Lora,
)
from tests.golden.told import TOLD

AT = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
BASE, PLAN, RESULT, ID, COMMIT = (digit * 64 for digit in "abcde")
FIRST, SECOND = "0123456789ab", "ba9876543210"


class Sent(NamedTuple):
    """A message as it stands on the bus; `expected` is the sequence that its publisher named."""

    stream: str
    sequence: int
    expected: int
    subject: str
    data: bytes

    @property
    def entry(self) -> Entry:
        headers = {EXPECTED: str(self.expected)}
        return Entry(self.stream, self.sequence, self.subject, self.data, headers)

    @property
    def line(self) -> bytes:
        head = f"{self.stream} {self.sequence} {self.expected} {self.subject} "
        return head.encode() + self.data + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Sent":
        stream, sequence, expected, subject, data = line.split(b" ", 4)
        return cls(stream.decode(), int(sequence), int(expected), subject.decode(), data)


class Chain:
    """One stream, in which each record names the one before it under its wildcard."""

    def __init__(self, stream: str) -> None:
        self.stream, self.sent = stream, list[Sent]()
        self.tails: dict[str, int] = {}

    def prev(self, wildcard: str) -> int:
        return self.tails.get(wildcard, 0)

    def add(self, wildcard: str, subject: str, data: bytes) -> int:
        expected, sequence = self.prev(wildcard), len(self.sent) + 1
        self.sent.append(Sent(self.stream, sequence, expected, subject, data))
        self.tails[wildcard] = sequence
        return sequence


def nonce(number: int) -> str:
    return f"{number:032x}"


def ref(key: str, sha256: str, bucket: str = "duramen") -> ObjectRef:
    return ObjectRef.model_validate({"bucket": bucket, "key": key, "sha256": sha256, "size": 1234})


PLAN_REF = ref(f"plans/{PLAN}.json", PLAN)
RESULT_REF = ref(f"results/main/{FIRST}-3.json", RESULT, "work")
CHECKPOINT = CheckpointRef(
    id=ID,
    prefix=f"checkpoints/main/{FIRST}/00000040-{ID[:12]}",
    segment=FIRST,
    fence=3,
    position=40,
    global_step=40,
)
FAILURE = Failure(kind="nan", message="The loss is no number.", next_step="duramen queue retry 1")


class Jobs(Chain):
    """Stream JOBS."""

    def __init__(self) -> None:
        super().__init__("JOBS")
        self.tickets: dict[JobId, int] = {}

    def job(self, job: JobId, verb: JobVerb, state: str, **fields: Any) -> int:
        record = JobRecord.model_validate(
            {
                "nonce": nonce(len(self.sent)),
                "by": "ctl anna@host",
                "at": AT,
                "prev": self.prev(job.wildcard),
                "job": job.path,
                "state": state,
                "level": "normal",
                "name": "rows.jsonl",
                "dataset": ref(f"datasets/{job.sha256}/data.jsonl", job.sha256).model_dump(),
                "rows": 12,
                "queued_at": AT,
                "ticket": self.tickets.get(job),
                **fields,
            }
        )
        sequence = self.add(job.wildcard, job.subject(verb), record.encode())
        self.tickets.setdefault(job, sequence)
        return sequence

    def line(self, verb: LineVerb, model: type[LineRecord], **fields: Any) -> int:
        subject = line_subject("main", verb)
        common = {"nonce": nonce(len(self.sent)), "by": "trainer-1", "at": AT, "lineage": "main"}
        record = model.model_validate({**common, "prev": self.prev("main"), **fields})
        return self.add("main", subject, record.encode())


def jobs() -> list[Sent]:
    """Every verb of jobs and lineages."""
    chain = Jobs()
    first, second, third = (JobId("main", d * 64, run) for d, run in [("1", 1), ("2", 2), ("3", 1)])
    lora = Lora(rank=8, alpha=16, dropout=0.05, targets=["q_proj", "v_proj"])
    chain.line("create", LineCreate, settings=LineageSettings(
        base_root=BASE, lora=lora, dtype="bfloat16", quantize="nf4", seed=7, chat_template="{{ 1 }}"
    ).model_dump())  # fmt: skip
    chain.job(first, "submit", "queued")
    opened = chain.line("open", LineOpen, **opening(first, FIRST, 2))
    chain.job(first, "run", "running", segment=FIRST, fence=opened, plan=PLAN_REF.model_dump(),
              tokens=4321, steps=80)  # fmt: skip
    went_on = {**opening(first, FIRST, 4), "checkpoint": CHECKPOINT.model_dump(), "position": 40,
               "global_step": 40, "micro_tokens_asked": 512, "deaths": 1}  # fmt: skip
    fence = chain.line("open", LineOpen, **went_on)
    stopped = closing(first, FIRST, fence, outcome="stopped", cause=nonce(99))
    chain.line("close", LineClose, **stopped)
    chain.job(first, "requeue", "queued", plan=PLAN_REF.model_dump(), tokens=4321, steps=80)
    again = chain.line("open", LineOpen, **{**went_on, "segment": SECOND, "deaths": 0})
    done = closing(first, SECOND, again, outcome="done", version=1, from_step=40, from_position=40)
    target = chain.line("close", LineClose, **done)
    chain.job(first, "done", "done", segment=SECOND, fence=again, version=1,
              plan=PLAN_REF.model_dump(), tokens=4321, steps=80)  # fmt: skip
    chain.job(second, "submit", "queued", settings=settings().model_dump())
    chain.job(second, "amend", "queued", settings={"epochs": 3})
    chain.job(second, "move", "queued", level="high", settings={"epochs": 3})
    lost = chain.line("open", LineOpen, **{**opening(second, "a" * 12, 12), "global_step": 40})
    failed = closing(second, "a" * 12, lost, outcome="failed", failure=FAILURE.model_dump())
    chain.line("close", LineClose, **{**failed, "from_step": 40, "result": None})
    chain.job(second, "fail", "failed", failure=FAILURE.model_dump())
    chain.job(second, "retry", "queued", attempt=2)
    chain.job(second, "skip", "skipped", attempt=2)
    chain.job(third, "submit", "queued", level="low")
    chain.job(third, "remove", "removed", level="low")
    chain.line("open", LineOpen, **{**opening(second, "b" * 12, 17), "global_step": 40})
    head = Head(base_root=BASE, global_step=40, checkpoint=CHECKPOINT).model_dump()
    chain.line("rollback", LineRollback, version=1, target=target, head=head,
               void_segment="b" * 12, cause=nonce(98))  # fmt: skip
    return chain.sent


def settings() -> JobSettings:
    """All that one job may set for itself."""
    return JobSettings(
        learning_rate=1e-4, epochs=3, batch_tokens=1024, max_length=512, on_long="truncate",
        weight_decay=0.1, clip=0.5, warmup_steps=5, schedule="wsd", cooldown_fraction=0.2,
        neftune_alpha=5.0, description="Letters of March",
    )  # fmt: skip


def opening(job: JobId, segment: str, job_sequence: int) -> dict[str, Any]:
    return {
        "segment": segment,
        "job": job.path,
        "job_sequence": job_sequence,
        "position": 0,
        "global_step": 0,
        "plan": PLAN_REF.model_dump(),
        "micro_tokens": 256,
        "dtype": "bfloat16",
        "lease": "trainer.main",
        "owner": "trainer-1",
        "host": "host",
    }


def closing(job: JobId, segment: str, fence: int, **fields: Any) -> dict[str, Any]:
    return {
        "segment": segment,
        "fence": fence,
        "job": job.path,
        "from_step": 0,
        "to_step": 40,
        "from_position": 0,
        "to_position": 40,
        "head": Head(base_root=BASE, global_step=40, checkpoint=CHECKPOINT).model_dump(),
        "plan": PLAN_REF.model_dump(),
        "result": RESULT_REF.model_dump(),
        **fields,
    }


def commands() -> list[Sent]:
    """Every state that can be wished for, and every one-time command."""
    chain = Chain("CTL")
    wishes: list[dict[str, Any]] = [
        {"state": "paused", "reason": "the house is hot"},
        {"state": "running"},
        {"state": "stopped", "discard": FIRST},
    ]
    for wish in wishes:
        subject = desired_subject("trainer")
        data = Desired.model_validate({**common(chain, subject), **wish}).encode()
        chain.add(subject, subject, data)
    of_segment = {"lineage": "main", "segment": FIRST}
    asked: list[dict[str, Any]] = [
        {"command": "skip", "keep": True, **of_segment},
        {"command": "snapshot", **of_segment},
        {"command": "checkpoint", **of_segment},
        {"service": "vault", "command": "rollback", "lineage": "main", "version": 1, "force": True},
        {"service": "vault", "command": "base", "base_root": BASE},
    ]
    for wish in asked:
        subject = once_subject(wish.get("service", "trainer"))
        data = Once.model_validate({**common(chain, subject), **wish}).encode()
        chain.add(subject, subject, data)
    return chain.sent


def common(chain: Chain, subject: str) -> dict[str, Any]:
    by = {"by": "ctl anna@host", "at": AT, "nonce": nonce(len(chain.sent))}
    return {"service": "trainer", "prev": chain.prev(subject), **by}


def leases() -> list[Sent]:
    """A lease in use."""
    lease = Lease(owner="trainer-1", host="host", fence=3, nonce=nonce(1), at=AT)
    return [Sent("LEASE", 1, 0, lease_subject("trainer.main"), lease.encode())]


def events() -> list[Sent]:
    """An event of each kind that a service tells."""
    sent = []
    for number, fields in enumerate(TOLD, 1):
        event = Event.model_validate({"nonce": nonce(number), "at": AT, **fields})
        subject = event_subject(event.service, event.kind)
        sent.append(Sent("EVT", number, 0, subject, event.encode()))
    return sent
