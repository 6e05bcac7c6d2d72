"""The fields of one event of each kind, as the services tell them."""

from typing import Any

FIRST = "0123456789ab"
JOB = f"main/{'1' * 64}/1"
STORED = {
    "bucket": "duramen",
    "key": f"datasets/{'1' * 64}/data.jsonl",
    "sha256": "1" * 64,
    "size": 1234,
}
SNAPSHOT = {
    "bucket": "work",
    "key": f"snapshots/main/{FIRST}/00000040-3.parquet",
    "sha256": "f" * 64,
    "size": 5678,
}
COMMIT = {"bucket": "duramen", "key": "catalog/main/v001.json", "sha256": "e" * 64, "size": 910}
DECISION = {
    "size": "full",
    "why": "the job's last",
    "spent_seconds": 1.25,
    "allowed_seconds": 60.5,
    "expected_seconds": None,
    "limit_seconds": 60.0,
    "seconds": 0.75,
    "is_reused": False,
    "probes": 12,
    "measured": 12,
    "answered": 10,
}
SUMMARY = {
    "trained": {
        "count": 12,
        "loss": 1.5,
        "token_accuracy": 0.75,
        "answered": 10,
        "exact_match": 0.4,
        "normalized_match": 0.5,
    },
    "eval": {
        "count": 2,
        "loss": 2.5,
        "token_accuracy": 0.25,
        "answered": 0,
        "exact_match": None,
        "normalized_match": None,
    },
}


def ingest(kind: str, **fields: Any) -> dict[str, Any]:
    return {"service": "ingest", "kind": kind, "lineage": "main", **fields}


def trainer(kind: str, **fields: Any) -> dict[str, Any]:
    return {"service": "trainer", "kind": kind, "lineage": "main", "job": JOB, **fields}


def alarm(service: str, **data: Any) -> dict[str, Any]:
    return {"service": service, "kind": "alarm", "data": data}


FACTS = {"name": "rows.jsonl", "rows": 12, "level": "normal"}
HELD = {"segment": FIRST, "fence": 3}
ROLLED_BACK = {
    "lineage": "main",
    "version": 1,
    "ledger_sequence": 9,
    "global_step": 40,
    "checkpoint": "d" * 64,
}
VOID = {"sequence": 7, "subject": "jobs.line.main.open", "detail": "a copy"}
BASE_STORED = {"base_root": "a" * 64, "files": 5, "bytes": 1234567, "copies": 3}
TOLD: list[dict[str, Any]] = [
    ingest("stored", ref=STORED, data={**FACTS, "bytes": 1234}),
    ingest(
        "queued",
        job=JOB,
        ref=STORED,
        data={**FACTS, "why": "queued as job 111111111111.1.", "next": "duramen queue list"},
    ),
    ingest(
        "duplicate",
        job=JOB,
        ref=STORED,
        data={**FACTS, "why": "trained already", "next": "duramen versions show v001"},
    ),
    ingest(
        "refused",
        data={"name": "rows.jsonl", "why": "role (line 3, messages[0].role)", "rules": {"role": 1}},
    ),
    ingest("amended", job=JOB, data={"name": "rows.yaml"}),
    alarm("ingest", what="not_stored", about="rows.jsonl", detail="it is damaged"),
    trainer("opened", data=HELD),
    trainer("closed", data={**HELD, "outcome": "done", "version": 1}),
    trainer("closed", data={**HELD, "outcome": "stopped", "version": None}),
    trainer(
        "snapshot",
        ref=SNAPSHOT,
        data={
            "global_step": 40,
            "position": 40,
            "summary": SUMMARY,
            "decision": DECISION,
            **HELD,
        },
    ),
    trainer(
        "out_of_memory",
        data={"segment": FIRST, "was": 256, "micro_tokens": 128, "why": "memory ran out"},
    ),
    {
        "service": "trainer",
        "kind": "answered",
        "data": {
            "command": f"{5:032x}",
            "sequence": 5,
            "name": "snapshot",
            "outcome": "done",
            "why": "snapshot",
            "segment": FIRST,
        },
    },
    alarm("trainer", what="store_away", detail="the store has been away for 61 s"),
    alarm("trainer", what="head_unusable", detail="the checkpoint is damaged"),
    alarm("trainer", what="void_record", about="7", **VOID),
    {"service": "vault", "kind": "base_stored", "data": BASE_STORED},
    {
        "service": "vault",
        "kind": "version_published",
        "lineage": "main",
        "job": JOB,
        "ref": COMMIT,
        "data": {"version": 1, "ledger_sequence": 9, "copies": 3, "bytes": 123456},
    },
    {"service": "vault", "kind": "rolled_back", "lineage": "main", "data": ROLLED_BACK},
    {
        "service": "vault",
        "kind": "answered",
        "lineage": "main",
        "data": {
            "command": f"{7:032x}",
            "sequence": 7,
            "outcome": "done",
            "why": "head and latest of main are those of v001",
            "receipt": ROLLED_BACK,
        },
    },
    {
        "service": "vault",
        "kind": "answered",
        "data": {
            "command": f"{8:032x}",
            "sequence": 8,
            "outcome": "void",
            "why": "the command names no base",
            "receipt": {},
        },
    },
    alarm("vault", what="not_published", about="main v001", detail="backup is away"),
]

# Kinds that came after version 0.1, of which no golden bytes are kept: events live for 30 days.
TOLD_LATER: list[dict[str, Any]] = [
    trainer(
        "planned",
        data={"rows": 9, "train_rows": 4, "new_rows": 5, "changed_answers": 1, "steps": 2},
    ),
]
