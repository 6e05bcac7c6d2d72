"""Which rows of a job's file are not trained, and why: from ingest's report and the job's plan."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shared.errors import DuramenError, ObjectMissing

if TYPE_CHECKING:
    from shared.ledger.jobs import Job
    from shared.store.s3 import Store

LINES_SHOWN = 20
REPEATED, BAD, HELD_OUT = "repeated", "bad", "held out, to be measured"


def of(store: "Store", job: "Job") -> list[dict[str, Any]]:
    """For each reason {reason, rows, lines}: `lines` of the original, from 1, at most 20.

    What a plan leaves out is known once there is one. Blocking. Raises StoreUnavailable.
    """
    prefix = f"datasets/{job.id.sha256}"
    report = read(store, f"{prefix}/report.json")
    found = [
        entry(REPEATED, report.get("duplicate_rows", 0), report.get("duplicate_lines", [])),
        entry(BAD, report.get("bad_rows", 0), [p.get("line") for p in report.get("problems", [])]),
    ]
    if job.record.plan is not None:
        plan = read(store, job.record.plan.key)
        rows: dict[str, list[int]] = {HELD_OUT: list(plan.get("heldout_rows", []))}
        for left in plan.get("left_out", []):
            if left["dataset"] == job.id.sha256:
                rows.setdefault(left["reason"], []).append(left["row"])
        shown = {row for numbers in rows.values() for row in numbers[:LINES_SHOWN]}
        lines = dict(lines_of(store, f"{prefix}/source.jsonl", shown))
        found += [
            entry(reason, len(numbers), [lines.get(n) for n in numbers[:LINES_SHOWN]])
            for reason, numbers in rows.items()
        ]
    return [each for each in found if each["rows"]]


def entry(reason: str, rows: int, lines: list[int | None]) -> dict[str, Any]:
    known = [line for line in lines if line is not None]
    return {"reason": reason, "rows": rows, "lines": known[:LINES_SHOWN]}


def read(store: "Store", key: str) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        found: dict[str, Any] = json.loads(store.read("duramen", key))
    except ObjectMissing:
        return {}
    return found


def lines_of(store: "Store", key: str, rows: set[int]) -> Iterator[tuple[int, int]]:
    """(row from 0, its line in the original); reads no further than it must."""
    number, rest, last = 0, b"", max(rows, default=-1)
    for block in store.blocks("duramen", key) if rows else ():
        *whole, rest = (rest + block).split(b"\n")
        for raw in whole:
            if number in rows:
                yield number, json.loads(raw)["line"]
            number += 1
        if number > last:
            return


def known(store: "Store", job: "Job") -> list[dict[str, Any]] | None:
    """As `of`; None where the store cannot be asked: the rest of a job is shown all the same."""
    try:
        return of(store, job)
    except DuramenError:
        return None


def text(found: list[dict[str, Any]] | None) -> list[str]:
    """A line for each reason."""
    if found is None:
        return ["unknown: the store does not answer"]
    return [
        f"{each['rows']} {'row' if each['rows'] == 1 else 'rows'}: {each['reason']}{places(each)}"
        for each in found
    ] or ["nothing"]


def places(found: dict[str, Any]) -> str:
    if not found["lines"]:
        return ""
    more = ", …" if found["rows"] > len(found["lines"]) else ""
    word = "line" if found["rows"] == 1 else "lines"
    return f" ({word} {', '.join(map(str, found['lines']))}{more})"
