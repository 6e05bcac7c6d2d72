"""The API's answers about life lines. Nothing here is stored: cache + ledger = answer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from services.evolution.cache import Cache, CachedSnapshot, Row
from services.evolution.lifelines import Point, Verdict, judge, line
from services.evolution.snapshot_reader import identity
from services.evolution.speed import speed, typical
from services.evolution.tables import by_split, first_and_last, in_order, tally
from shared.errors import NotFound, UsageError
from shared.formats.snapshot import probability_of
from shared.ledger.jobs import Table
from shared.protocol.events import SnapshotDecision
from shared.protocol.names import SPLITS, JobId

SHORTEST_PREFIX = 4
Answer = dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """A snapshot of the training that led to the model of today."""

    found: CachedSnapshot
    job: JobId
    is_final: bool


def counted_snapshots(table: Table, snapshots: Iterable[CachedSnapshot]) -> dict[int, Counted]:
    """Return, by id, the snapshots that lie in a kept segment or in the open one.

    Their (segment, fence, step) decides.
    """
    living = {name: ledger.living() for name, ledger in table.lines.items()}
    chosen: dict[tuple[str, str], Counted] = {}
    for found in sorted(snapshots, key=lambda f: f.place, reverse=True):  # `work` before `version`
        segment = living.get(found.lineage, {}).get(found.segment)
        if found.problem is not None or segment is None or segment.job.path != found.job:
            continue
        if not segment.holds(found.fence, found.global_step):
            continue
        close = segment.closed
        final = close is not None and close.outcome == "done" and close.to_step == found.global_step
        chosen.setdefault(identity(found), Counted(found, segment.job, final))
    return {one.found.id: one for one in chosen.values()}


@dataclass(frozen=True)
class Answers:
    """A view of the cache as one state of the ledgers sees it."""

    cache: Cache
    table: Table
    counted: Mapping[int, Counted]

    @classmethod
    def now(cls, cache: Cache, table: Table) -> "Answers":
        return cls(cache, table, counted_snapshots(table, cache.snapshots()))

    # ---- names -----------------------------------------------------------------------------------

    def dataset(self, prefix: str, lineage: str | None, run: int | None) -> list[Counted]:
        """Return the snapshots of one dataset's jobs, by step. Raises NotFound, UsageError."""
        mine = [
            one
            for one in self.counted.values()
            if one.job.sha256.startswith(prefix)
            and lineage in (None, one.job.lineage)
            and run in (None, one.job.run)
        ]
        names = {(one.job.lineage, one.job.sha256) for one in mine}
        only(sorted(f"{line}/{sha256[:12]}" for line, sha256 in names), "dataset", prefix)
        return sorted(mine, key=lambda one: (one.found.global_step, one.found.fence))

    def probe(self, prefix: str) -> str:
        if len(prefix) < SHORTEST_PREFIX:
            raise UsageError(f"{prefix!r} is too short: use at least {SHORTEST_PREFIX} characters.")
        return only(self.cache.probes_like(prefix), "probe", prefix)

    def file_name(self, job: JobId) -> str:
        known = self.table.jobs.get(job)
        return known.record.name if known else ""

    def about(self, mine: Sequence[Counted]) -> Answer:
        job = mine[-1].job
        return {
            "dataset": job.sha256,
            "lineage": job.lineage,
            "name": self.file_name(job),
            "first_step": mine[0].found.global_step,
            "last_step": mine[-1].found.global_step,
        }

    # ---- points ----------------------------------------------------------------------------------

    def point(self, row: Row) -> Point:
        one = self.counted[row["snapshot"]]
        return Point(
            global_step=one.found.global_step,
            job=one.job.path,
            split=row["split"],
            loss=row["loss"],
            token_accuracy=row["token_accuracy"],
            exact_match=flag(row["exact_match"]),
            answer=row["answer"],
            first_mismatch=row["first_mismatch"],
            is_final=one.is_final,
            fence=one.found.fence,
            segment=one.found.segment,
            at=one.found.at,
            normalized_match=flag(row["normalized_match"]),
            similarity=row["similarity"],
            confidence=row["confidence"],
            is_cut=bool(row["is_cut"]),
            job_tokens=one.found.job_tokens,
        )

    def lines(self, lineage: str, probes: Iterable[str]) -> dict[str, list[Point]]:
        """Return the life lines of these probes in one lineage, by probe."""
        points: dict[str, list[Point]] = {}
        for row in self.cache.of_probes(probes):
            one = self.counted.get(row["snapshot"])
            if one is not None and one.job.lineage == lineage:
                points.setdefault(row["probe"], []).append(self.point(row))
        return {probe: line(found) for probe, found in points.items()}

    # ---- answers ---------------------------------------------------------------------------------

    def datasets(self) -> Answer:
        """Return every dataset that has snapshots, with its jobs."""
        groups: dict[tuple[str, str], list[Counted]] = {}
        for one in sorted(self.counted.values(), key=lambda c: c.found.global_step):
            groups.setdefault((one.job.lineage, one.job.sha256), []).append(one)
        return {"datasets": [self._dataset(mine) for mine in groups.values()]}

    def _dataset(self, mine: list[Counted]) -> Answer:
        jobs = []
        for job in sorted({one.job for one in mine}):
            record = self.table.jobs[job].record if job in self.table.jobs else None
            jobs.append(
                {
                    "job": job.path,
                    "shown": str(job),
                    "run": job.run,
                    "state": record.state if record else None,
                    "version": record.version if record else None,
                }
            )
        counts = self.cache.counts(one.found.id for one in mine)
        return {
            **self.about(mine),
            "snapshots": len(mine),
            "probes": {split: counts[split] for split in SPLITS if split in counts},
            "last_at": mine[-1].found.at,
            "jobs": jobs,
        }

    def snapshots(self, prefix: str, lineage: str | None, run: int | None) -> Answer:
        """Return loss and exact match by step.

        What is measured at a step is over the probes of that snapshot; `known` is over all probes
        so far, each at its last value: a curve that small snapshots do not bend.
        """
        mine = self.dataset(prefix, lineage, run)
        by_snapshot: dict[int, list[Row]] = {}
        for row in self.cache.measurements(one.found.id for one in mine):
            by_snapshot.setdefault(row["snapshot"], []).append(row)
        last: dict[tuple[str, str], Point] = {}
        asked: dict[tuple[str, str], Point] = {}
        shown = []
        for one in mine:
            here: dict[tuple[str, str], Point] = {}
            for row in by_snapshot.get(one.found.id, []):
                here[row["split"], row["probe"]] = self.point(row)
            last |= here
            asked |= {key: point for key, point in here.items() if point.exact_match is not None}
            names = ("global_step", "position", "segment", "fence", "job", "at")
            measured = by_split(here, here)
            known = by_split(last, asked)
            shown.append(
                {
                    **{name: getattr(one.found, name) for name in names},
                    "is_final": one.is_final,
                    "job_tokens": one.found.job_tokens,
                    "decision": decision_of(one.found),
                    "splits": {s: {**measured.get(s, {}), "known": known[s]} for s in known},
                }
            )
        return {**self.about(mine), "snapshots": shown}

    def snapshot(self, prefix: str, step: int, lineage: str | None) -> Answer:
        """Return every probe at one step. Raises NotFound, UsageError."""
        mine = [o for o in self.dataset(prefix, lineage, None) if o.found.global_step == step]
        if not mine:
            raise NotFound(f"Dataset {prefix} has no snapshot at step {step}.")
        chosen = mine[-1]
        rows = self.cache.measurements([chosen.found.id])
        names = (
            *("probe", "split", "dataset", "row", "prompt", "expected", "answer", "tokens"),
            *("loss", "token_accuracy", "first_mismatch"),
        )
        return {
            **self.about([chosen]),
            "global_step": step,
            "segment": chosen.found.segment,
            "fence": chosen.found.fence,
            "probes": [
                {**{name: row[name] for name in names}, "exact_match": self.point(row).exact_match}
                for row in sorted(rows, key=in_order)
            ],
        }

    def example(self, prefix: str, lineage: str | None) -> Answer:
        """Return one probe's whole life, with what the model said at each step."""
        probe = self.probe(prefix)
        rows = [r for r in self.cache.of_probes([probe]) if r["snapshot"] in self.counted]
        names = sorted({self.counted[r["snapshot"]].job.lineage for r in rows})
        name = only([n for n in names if lineage in (None, n)], "lineage with probe", prefix)
        points = self.lines(name, [probe])[probe]
        return {
            "probe": probe,
            "lineage": name,
            "dataset": rows[0]["dataset"],
            "row": rows[0]["row"],
            "prompt": rows[0]["prompt"],
            "expected": rows[0]["expected"],
            **self._verdict(judge(points)),
            "speed": asdict(speed(points)),
            "points": [
                {**point.__dict__, "is_right": point.is_right, "name": self._name(point.job)}
                for point in points
            ],
            "tokens": self._tokens(rows, name, points[-1]),
        }

    def _tokens(self, rows: list[Row], lineage: str, last: Point) -> list[Answer]:
        """Return the pieces of the expected answer, each with its probability at the last point."""
        for row in rows:
            one = self.counted[row["snapshot"]]
            at = one.job.lineage, one.found.global_step, one.found.fence
            if at == (lineage, last.global_step, last.fence) and row["loss"] is not None:
                pairs = zip(*self.cache.tokens(one.found.id, row["probe"]), strict=True)
                return [{"piece": p, "probability": probability_of(s)} for p, s in pairs]
        return []

    def summary(self, prefix: str, lineage: str | None, run: int | None) -> Answer:
        """Return what was learned: numbers for each split, and each probe with its state."""
        mine = self.dataset(prefix, lineage, run)
        rows = self.cache.measurements(one.found.id for one in mine)
        own: dict[tuple[str, str], list[Point]] = {}
        texts: dict[tuple[str, str], Row] = {}
        for row in rows:
            own.setdefault((row["split"], row["probe"]), []).append(self.point(row))
            texts[row["split"], row["probe"]] = row
        lives = self.lines(mine[-1].job.lineage, {probe for _, probe in own})
        verdicts = {probe: judge(points) for probe, points in lives.items()}
        ordered = sorted(texts.items(), key=lambda item: in_order(item[1]))
        probes = [
            self._probe(number, row, line(own[key]), verdicts[key[1]])
            for number, (key, row) in enumerate(ordered, 1)
        ]
        splits = {}
        for split in SPLITS:
            lines = [line(points) for (s, _), points in own.items() if s == split]
            states = [probe["state"] for probe in probes if probe["split"] == split]
            if lines:
                splits[split] = {
                    **first_and_last(lines),
                    "states": tally(states),
                    "speed": asdict(typical([speed(points) for points in lines])),
                }
        return {
            **self.about(mine),
            "snapshots": len(mine),
            "splits": splits,
            "probes": probes,
        }

    def _probe(self, number: int, row: Row, own: list[Point], verdict: Verdict) -> Answer:
        names = ("probe", "split", "dataset", "row", "prompt", "expected")
        return {
            "number": number,
            **{name: row[name] for name in names},
            **self._verdict(verdict),
            "loss_first": own[0].loss,
            "loss_last": own[-1].loss,
            "is_right": own[-1].is_right,
            "asked": sum(point.exact_match is not None for point in own),
            "speed": asdict(speed(own)),
        }

    def _verdict(self, verdict: Verdict) -> Answer:
        name = self._name(verdict.job) if verdict.job else None
        return {"state": verdict.state, "step": verdict.step, "job": verdict.job, "during": name}

    def _name(self, job: str) -> str:
        return self.file_name(JobId.parse(job))

    def states(self, probes: Iterable[str]) -> dict[tuple[str, str], tuple[str, str]]:
        """Return (split as last measured, state) of these probes, by (lineage, probe)."""
        points: dict[tuple[str, str], list[Point]] = {}
        for row in self.cache.of_probes(probes):
            one = self.counted.get(row["snapshot"])
            if one is not None:
                points.setdefault((one.job.lineage, row["probe"]), []).append(self.point(row))
        lives = {key: line(found) for key, found in points.items()}
        return {key: (life[-1].split, judge(life).state) for key, life in lives.items()}


def decision_of(found: CachedSnapshot) -> SnapshotDecision | None:
    """Return why a snapshot was taken; None if its file does not say so in a known form."""
    try:
        return SnapshotDecision.model_validate_json(found.decision or "")
    except ValidationError:
        return None


def flag(stored: int | None) -> bool | None:
    return None if stored is None else bool(stored)


def only(found: Sequence[str], what: str, prefix: str) -> str:
    if not found:
        raise NotFound(f"There is no {what} {prefix}.", next_step="duramen evolution list")
    if len(found) > 1:
        some = ", ".join(name[:40] for name in found[:4])
        raise UsageError(f"{len(found)} of {what} {prefix}: {some}; use a longer prefix.")
    return found[0]
