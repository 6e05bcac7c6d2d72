"""The rows of a job's file that are not trained, and why, from ingest's report and the plan."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from services.ctl.views.columns import count_of
from shared.errors import DuramenError, ObjectMissing
from shared.formats.dataset import original_lines
from shared.formats.known_rows import new_rows_text, trained_in
from shared.formats.plan import KnownRows, Plan
from shared.formats.report import Contents
from shared.store import layout

if TYPE_CHECKING:
    from shared.ledger.jobs import Job
    from shared.store.s3 import Store

LINES_SHOWN = 20
REPEATED, BAD, HELD_OUT = "repeated", "bad", "held out, to be measured"
MARKED_BAD = "marked as bad (only_positive)"


class FileRows(NamedTuple):
    """What becomes of the rows of a job's file.

    `left_out`: {reason, rows, lines} for each reason; `lines` of the original, from 1, at most 20.
    `new`: {rows, of, changed, changed_lines}, once there is a plan. `ignored`: in how many rows a
    field was ignored, by its name.
    """

    left_out: list[dict[str, Any]]
    new: dict[str, Any] | None
    ignored: dict[str, int]


def rows_of(store: "Store", job: "Job") -> FileRows:
    """Return which rows are not trained, and how many are new. Blocking.

    What a plan leaves out is known once there is one. Raises StoreUnavailable.
    """
    found, ignored = [], {}
    if (report := object_or_none(store, layout.dataset_report(job.id.sha256))) is not None:
        counted = Contents.model_validate_json(report)
        found = [
            entry(REPEATED, counted.duplicate_rows, counted.duplicate_lines),
            entry(MARKED_BAD, counted.left_out_rows, []),
            entry(BAD, counted.bad_rows, [problem.line for problem in counted.problems]),
        ]
        ignored = counted.ignored_fields
    ref, new = job.record.plan, None
    if ref is not None and (data := object_or_none(store, ref.key)) is not None:
        plan = Plan.from_bytes(data)
        known = plan.known or KnownRows()
        rows: dict[str, list[int]] = {HELD_OUT: list(plan.heldout_rows)}
        for number, left in plan.left_out_of(job.id.sha256).items():
            rows.setdefault(left.reason, []).append(number)
        changed = [row.row for row in known.changed_rows]
        shown = {*changed, *(row for numbers in rows.values() for row in numbers[:LINES_SHOWN])}
        lines = original_lines(store.blocks("duramen", layout.dataset_source(job.id.sha256)), shown)
        found += [entry(f"already trained in {trained_in(j)}", j.rows, []) for j in known.jobs]
        found += [
            entry(reason, len(numbers), [lines.get(n) for n in numbers[:LINES_SHOWN]])
            for reason, numbers in rows.items()
        ]
        new = {
            "rows": plan.new_rows,
            "of": plan.rows,
            "changed": known.changed,
            "changed_lines": [lines[n] for n in changed if n in lines],
        }
    return FileRows([each for each in found if each["rows"]], new, ignored)


def ignored_text(ignored: dict[str, int]) -> str:
    """Return the fields that were ignored, and in how many rows each of them stood."""
    return ", ".join(f"{name} ({count_of(rows, 'row')})" for name, rows in ignored.items())


def entry(reason: str, rows: int, lines: Sequence[int | None]) -> dict[str, Any]:
    known = [line for line in lines if line is not None]
    return {"reason": reason, "rows": rows, "lines": known[:LINES_SHOWN]}


def object_or_none(store: "Store", key: str) -> bytes | None:
    """Return what is stored under a key, or None where nothing is."""
    try:
        return store.read("duramen", key)
    except ObjectMissing:
        return None


def rows_if_known(store: "Store", job: "Job") -> FileRows | None:
    """Return the same as `rows_of`, or None where the store cannot be asked.

    The rest of a job is shown all the same.
    """
    try:
        return rows_of(store, job)
    except DuramenError:
        return None


def new_line(new: dict[str, Any]) -> str:
    """Return how much of a file is new, and which answers changed."""
    known = KnownRows(count=new["of"] - new["rows"], changed=new["changed"])
    text = new_rows_text(new["of"], known).removeprefix("new: ")
    return text + line_places({"rows": new["changed"], "lines": new["changed_lines"]})


def reason_lines(found: list[dict[str, Any]] | None) -> list[str]:
    """Return a line for each reason."""
    if found is None:
        return ["unknown: the store does not answer"]
    return [
        f"{count_of(each['rows'], 'row')}: {each['reason']}{line_places(each)}" for each in found
    ] or ["nothing"]


def line_places(found: dict[str, Any]) -> str:
    if not found["lines"]:
        return ""
    more = ", …" if found["rows"] > len(found["lines"]) else ""
    word = "line" if found["rows"] == 1 else "lines"
    return f" ({word} {', '.join(map(str, found['lines']))}{more})"
