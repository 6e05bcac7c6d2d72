"""Everything that is known of one job: its records, its segments, and where its objects lie."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from services.ctl.views.columns import Cell, Heads, Rows, count_of, number, text
from services.ctl.views.naming import OUTCOMES
from shared.errors import NotFound, ObjectMissing
from shared.formats.result import JOB_LOG
from shared.formats.version import version_name
from shared.ledger.jobs import Job, Table
from shared.ledger.lineage import Segment
from shared.protocol.message import ObjectRef
from shared.protocol.records import JobRecord
from shared.store import layout

if TYPE_CHECKING:
    from shared.store.place import Bucket
    from shared.store.s3 import Store

HISTORY_HEADS: Heads = [number("record"), "at (UTC)", "what", text("by"), text("how")]


def history_of(table: Table, job: Job) -> dict[str, Any]:
    """Return what `duramen queue show` adds to a row of the queue."""
    record = job.record
    segments = table.segments_of(job.id)
    closes = [s.closed for s in segments if s.closed]
    return {
        "queued_at": record.queued_at.isoformat(),
        "settings": record.settings.model_dump(exclude_none=True),
        "dataset": object_place(record.dataset),
        "plan": object_place(record.plan) if record.plan else None,
        "steps": record.steps,
        "log": f"work/{log_key(segments[-1])}" if segments else None,
        "result": next((object_place(c.result) for c in reversed(closes) if c.result), None),
        "failure": record.failure.model_dump() if record.failure else None,
        "versions": [c.version for c in closes if c.version is not None],
        "segments": [segment_value(table, s) for s in segments],
        "history": [
            {
                "sequence": at,
                "verb": verb,
                "by": entry.by,
                "at": entry.at.isoformat(),
                "how": ", ".join(changed(before, entry)),
            }
            for before, (at, verb, entry) in with_record_before(job)
        ],
    }


def object_place(ref: ObjectRef) -> str:
    return f"{ref.bucket}/{ref.key}"


def owner_of(table: Table, job: Job) -> str:
    """Return who trains the job, as the ledger says."""
    segment = table.last_segment(job.id)
    return segment.record.owner if segment else "nobody"


def log_key(segment: Segment) -> str:
    """Return the key of a segment's log: with its results once closed, else with its progress."""
    if segment.closed is None:
        return layout.progress_file(segment.job.lineage, segment.id, JOB_LOG)
    fence = segment.closed.fence
    return layout.result_file(segment.job.lineage, segment.id, fence, JOB_LOG)


def log_text(store: "Store", table: Table, job: Job) -> str:
    """Return the log of a job's last segment, with what earlier ones wrote. Raises NotFound."""
    segments = table.segments_of(job.id)
    again = f"duramen queue show {job.id}"
    if not segments:
        raise NotFound(f"{job.id} has never been trained, so it has no log.", next_step=again)
    last = segments[-1]
    places: list[tuple[Bucket, str]] = [("work", log_key(last))]
    version = table.lines[job.id.lineage].version_with(last)
    if version is not None:  # what a version holds is cleaned from `work`
        places.append(("duramen", layout.version_file(job.id.lineage, version, JOB_LOG)))
    for bucket, key in places:
        try:
            data: bytes = store.read(bucket, key)
            return data.decode(errors="replace")
        except ObjectMissing:
            continue
    raise NotFound(f"The log of {job.id} is not stored yet.", next_step=again)


def segment_value(table: Table, segment: Segment) -> dict[str, Any]:
    close = segment.closed
    first = segment.first
    kept = segment.id in table.lines[segment.job.lineage].living()
    return {
        "segment": segment.id,
        "fences": sorted(segment.fences),
        "owner": segment.record.owner,
        "outcome": close.outcome if close else "open" if kept else "void",
        "kept": kept,
        "plan_steps": [first.position, close.to_position if close else None],
        "global_steps": [first.global_step, close.to_step if close else None],
        "version": close.version if close else None,
        "failure": close.failure.model_dump() if close and close.failure else None,
        "cause": close.cause if close else None,
    }


def with_record_before(job: Job) -> Iterator[tuple[JobRecord | None, tuple[int, str, JobRecord]]]:
    """Yield each entry of the job's history with the record before it, at first None."""
    before = None
    for entry in job.history:
        yield before, entry
        before = entry[2]


def changed(before: JobRecord | None, after: JobRecord, *, ids: bool = True) -> list[str]:
    """Return what one record says that the one before did not; runs and owners only with `ids`."""
    if before is None:
        return [f"{after.level} priority"]
    parts = []
    if after.level != before.level:
        parts.append(f"{before.level} → {after.level}")
    if after.attempt != before.attempt:
        parts.append(f"attempt {after.attempt}")
    if after.settings != before.settings:
        parts.append("settings")
    if ids and after.segment != before.segment and after.segment:
        parts.append(f"segment {after.segment}")
    elif ids and after.fence != before.fence and after.fence:
        parts.append(f"fence {after.fence}")
    if after.plan != before.plan and after.plan:
        parts.append(f"plan of {after.steps} steps" if after.steps else "plan")
    if after.version is not None and after.version != before.version:
        parts.append(version_name(after.version))
    if after.failure is not None:
        parts.append(after.failure.message.splitlines()[0])
    return parts


# ---- for people ----------------------------------------------------------------------------------


def tokens_text(value: dict[str, Any]) -> str:
    if value["tokens"] is None:
        return "tokens not counted yet"
    about = "about " if value["tokens_estimated"] else ""
    steps = f" in {count_of(value['steps'], 'step')}" if value["steps"] else ""
    return f"{about}{count_of(value['tokens'])} tokens{steps}"


def state_text(value: dict[str, Any]) -> str:
    versions = ", ".join(version_name(version) for version in value["versions"])
    text: str = value["state"] + (f", {versions}" if versions else "")
    progress = value["progress"]
    if progress and "steps" in progress:
        text += f", step {progress['position']} of {progress['steps']}"
        text += " (paused)" if progress["paused"] else ""
    if value["expected_start"]:
        text += f", expected to start at {value['expected_start'][:16].replace('T', ' ')} UTC"
    elif value["state"] == "queued":
        text += f", start unknown{': ' + value['reason'] if value['reason'] else ''}"
    return text


def run_heads(details: bool) -> Heads:
    heads: Heads = ["run", number("steps"), "steps of the lineage", "version"]
    return [*heads, "segment", number("owners")] if details else heads


def run_rows(segments: list[dict[str, Any]], details: bool) -> Rows:
    """Return the runs of a job, each from a start of training to its end, oldest first."""
    rows: Rows = []
    for s in segments:
        outcome = OUTCOMES.get(s["outcome"], s["outcome"])
        row: list[Cell | str] = [
            Cell(outcome, "red" if outcome == "failed" else "" if s["kept"] else "dim"),
            steps_text(s["plan_steps"]),
            steps_text(s["global_steps"]) + ("" if s["kept"] else " (dropped)"),
            version_name(s["version"]) if s["version"] else "",
        ]
        rows.append([*row, s["segment"], str(len(s["fences"]))] if details else row)
    return rows


def steps_text(steps: list[int | None]) -> str:
    return f"{steps[0]}–{'…' if steps[1] is None else steps[1]}"


def history_rows(job: Job, details: bool) -> Rows:
    """Return what happened to a job; the ids of its runs and owners only with `details`."""
    return [
        [
            str(at),
            entry.at.isoformat()[:19].replace("T", " "),
            verb,
            entry.by,
            ", ".join(changed(before, entry, ids=details)),
        ]
        for before, (at, verb, entry) in with_record_before(job)
    ]
