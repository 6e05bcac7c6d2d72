"""Comparison of two models, of one lineage or of two, example by example.

A place is a step of a lineage: that of a snapshot, of a job's last snapshot, or of a version. All
that was measured there counts, whichever job did it, because the end of one job is the start of the
next.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.evolution.api_answers import Answer, Answers, Counted
from services.evolution.cache import Row
from services.evolution.lifelines import Point, line
from services.evolution.tables import mean
from shared.answers.evolution import Change
from shared.errors import NotFound, UsageError
from shared.formats.version import version_name
from shared.protocol.names import SPLITS

CLEAR_CHANGE = 0.1  # of the loss
VERSION = re.compile(r"(?:([a-z0-9_-]{1,32})/)?v(\d+)")


@dataclass(frozen=True)
class NamedStep:
    """A step of a lineage, with the words that name it to people in `shown`."""

    lineage: str
    global_step: int
    shown: str


Looks = dict[str, tuple[Row, Point]]  # by probe


def comparison(answers: Answers, a: str, b: str) -> Answer:
    """Return what changed from `a` to `b` in the examples that both measured.

    The clearest change is first. Raises NotFound, UsageError.
    """
    first, second = named_step(answers, a), named_step(answers, b)
    before, after = looks(answers, first), looks(answers, second)
    common = [probe for probe in before if probe in after]
    if not common:
        raise NotFound(f"No example was measured at both {a} and {b}.")
    names = {job.sha256: known.record.name for job, known in answers.table.jobs.items()}
    found = [compare_example(before[probe], after[probe]) for probe in common]
    found = [{**one, "file": names.get(one["dataset"])} for one in found]
    found.sort(key=clearest_first)
    return {
        "a": {**first.__dict__, "measured": len(before)},
        "b": {**second.__dict__, "measured": len(after)},
        "splits": {
            split: counts(those)
            for split in SPLITS
            if (those := [one for one in found if one["split"] == split])
        },
        "examples": found,
    }


# ---- places --------------------------------------------------------------------------------------


def named_step(answers: Answers, said: str) -> NamedStep:
    """Return what `v003`, `LINEAGE/v003`, `JOB`, `JOB@64`, `JOB@first` or `JOB@last` means.

    Raises NotFound, UsageError.
    """
    version = VERSION.fullmatch(said)
    if version is not None:
        return version_place(answers, version[1], int(version[2]), said)
    job, _, step = said.partition("@")
    mine = job_snapshots(answers, job)
    if step == "first":
        chosen = mine[0]
    elif step in ("", "last"):
        chosen = mine[-1]
    else:
        at = [one for one in mine if str(one.found.global_step) == step]
        if not at:
            steps = ", ".join(str(one.found.global_step) for one in mine)
            raise NotFound(f"{job} has no snapshot at step {step}; it has {steps}.")
        chosen = at[-1]
    name = answers.file_name(chosen.job) or str(chosen.job)
    shown = f"{name} at step {chosen.found.global_step} of {chosen.job.lineage}"
    return NamedStep(chosen.job.lineage, chosen.found.global_step, shown)


def version_place(answers: Answers, lineage: str | None, version: int, said: str) -> NamedStep:
    lines = [
        line
        for name, line in answers.table.lines.items()
        if lineage in (None, name) and line.version_close(version) is not None
    ]
    if not lines:
        raise NotFound(f"There is no version {said}.", next_step="duramen versions list")
    if len(lines) > 1:
        names = ", ".join(f"{line.lineage}/{version_name(version)}" for line in lines)
        raise UsageError(f"{said} may be any of {names}.")
    close = lines[0].version_close(version)
    assert close is not None
    name = version_name(version)
    if lines[0].versions[version] not in lines[0].ancestry():
        # Its steps were counted again since: what is found at them is another model's.
        raise NotFound(
            f"{name} of {lines[0].lineage} was rolled back; its snapshots are set aside.",
            next_step="duramen versions list",
        )
    shown = f"{name} of {lines[0].lineage}, step {close.to_step}"
    return NamedStep(lines[0].lineage, close.to_step, shown)


def job_snapshots(answers: Answers, said: str) -> list[Counted]:
    """Return the snapshots, by step, of the job that is named.

    The name is `3f9a1c2b7d10.1`, any prefix of it, `LINEAGE/SHA256/RUN`, or the name of its file.
    Raises NotFound, UsageError.
    """
    named = [one for one in answers.counted.values() if answers.file_name(one.job) == said]
    if named:
        newest = max(named, key=lambda one: (one.found.global_step, one.found.fence)).job
        others = {(one.job.lineage, one.job.sha256) for one in named}
        if len(others) > 1:
            shown = ", ".join(sorted(f"{line}/{sha256[:12]}" for line, sha256 in others))
            raise UsageError(f"{said} may be any of {shown}; say which.")
        return answers.dataset(newest.sha256, newest.lineage, None)
    lineage: str | None = None
    if "/" in said:
        lineage, _, said = said.partition("/")
        said = said.replace("/", ".")
    prefix, _, run = said.partition(".")
    return answers.dataset(prefix, lineage, int(run) if run.isdigit() else None)


def looks(answers: Answers, at: NamedStep) -> Looks:
    """Return all that was measured at a place, by probe. Raises NotFound."""
    ids = [
        key
        for key, one in answers.counted.items()
        if (one.job.lineage, one.found.global_step) == (at.lineage, at.global_step)
    ]
    if not ids:
        raise NotFound(f"Nothing was measured at {at.shown}.")
    rows: dict[str, list[tuple[Row, Point]]] = {}
    for snapshot in ids:
        for row in answers.rows(snapshot):
            rows.setdefault(row["probe"], []).append((row, answers.point(row, snapshot)))
    found: Looks = {}
    for probe, pairs in rows.items():
        (best,) = line(point for _, point in pairs)
        # What it was to the job that knew it as its own says more than that it was there before.
        own = [row for row, _ in pairs if row["split"] != "earlier"] or [pairs[0][0]]
        found[probe] = own[0], best
    return found


# ---- examples ------------------------------------------------------------------------------------


def compare_example(before: tuple[Row, Point], after: tuple[Row, Point]) -> Answer:
    rows = [row for row, _ in (after, before) if row["split"] != "earlier"] or [after[0]]
    names = ("probe", "split", "dataset", "row", "prompt", "expected")
    return {
        **{name: rows[0][name] for name in names},
        "change": change(before[1], after[1]),
        "a": side_of(before[1]),
        "b": side_of(after[1]),
    }


def side_of(point: Point) -> dict[str, Any]:
    names = ("loss", "token_accuracy", "answer", "is_cut", "exact_match", "normalized_match")
    more = ("similarity", "confidence", "is_right")
    return {name: getattr(point, name) for name in (*names, *more)}


def change(before: Point, after: Point) -> Change:
    """Return whether an example became better or worse, or stayed the same.

    Better: right where it was wrong; or wrong in both, and the loss fell by a tenth or more. A loss
    that is not a number is worse than any.
    """
    if before.is_right != after.is_right:
        return "better" if after.is_right else "worse"
    if before.loss is None or after.loss is None:
        found = before.loss is not None, after.loss is not None
        return "same" if found[0] == found[1] else "better" if found[1] else "worse"
    if before.is_right or abs(after.loss - before.loss) < CLEAR_CHANGE * before.loss:
        return "same"
    return "better" if after.loss < before.loss else "worse"


def clearest_first(one: Answer) -> tuple[bool, bool, float]:
    """Return a key that sorts the clearest change first and what stayed the same last.

    Examples whose rightness changed come first, then those whose loss changed most.
    """
    flipped = one["a"]["is_right"] != one["b"]["is_right"]
    before, after = one["a"]["loss"], one["b"]["loss"]
    moved = math.inf if before is None or after is None else abs(before - after)
    return one["change"] == "same", not flipped, -moved


def counts(examples: Sequence[Answer]) -> Answer:
    changes = [one["change"] for one in examples]
    return {
        "count": len(examples),
        **{name: changes.count(name) for name in ("better", "same", "worse")},
        **{
            f"{name}_{side}": mean([one[side][name] for one in examples])
            for name in ("loss", "is_right")
            for side in ("a", "b")
        },
    }
