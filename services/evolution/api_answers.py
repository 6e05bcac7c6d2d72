"""The API's answers about life lines. Nothing here is stored: cache + ledger = answer."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from services.evolution.cache import Cache, CachedSnapshot, Row
from services.evolution.cells import NONE, values_of
from services.evolution.histories import Histories, Numbers, StepMeasured
from services.evolution.lifelines import STATES, Point, Verdict, judge, line
from services.evolution.snapshot_reader import identity
from services.evolution.speed import speed
from services.evolution.tables import in_order
from shared.answers.evolution import State
from shared.errors import NotFound, UsageError
from shared.formats.snapshot import probability_of
from shared.ledger.jobs import Table
from shared.protocol.events import SnapshotDecision
from shared.protocol.names import SPLITS, JobId, Split

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
        return in_steps(mine)

    def probe(self, prefix: str) -> int:
        """Return the number of the probe whose id begins so. Raises NotFound, UsageError."""
        if len(prefix) < SHORTEST_PREFIX:
            raise UsageError(f"{prefix!r} is too short: use at least {SHORTEST_PREFIX} characters.")
        found = self.cache.probes_like(prefix)
        return found[only(sorted(found), "probe", prefix)]

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

    # ---- measurements ----------------------------------------------------------------------------

    def rows(self, snapshot: int) -> list[Row]:
        """Return all measurements of a snapshot with their texts."""
        (cells,) = self.cache.cells([snapshot])
        asked = self.cache.asked(cells["probe"])
        answers, datasets = self.cache.answers(snapshot), self.cache.datasets()
        return [
            {
                **asked[int(cell["probe"])],
                **values_of(cell),
                "dataset": datasets[int(cell["dataset"])],
                "answer": answers.get(int(cell["probe"])),
            }
            for cell in cells
        ]

    def point(self, row: Row, snapshot: int) -> Point:
        """Return a row of `snapshot`, or what `values_of` gives with its answer, as a point."""
        one = self.counted[snapshot]
        names = (
            *("split", "loss", "token_accuracy", "exact_match", "answer", "first_mismatch"),
            *("normalized_match", "similarity", "confidence"),
        )
        return Point(
            **{name: row[name] for name in names},
            global_step=one.found.global_step,
            job=one.job.path,
            is_final=one.is_final,
            fence=one.found.fence,
            segment=one.found.segment,
            at=one.found.at,
            is_cut=bool(row["is_cut"]),
            job_tokens=one.found.job_tokens,
        )

    def of_lineage(self, lineage: str) -> list[Counted]:
        """Return all snapshots of a lineage by step."""
        return in_steps(one for one in self.counted.values() if one.job.lineage == lineage)

    def histories(
        self, chosen: Sequence[Counted], *, by_split: bool = False, only: Numbers | None = None
    ) -> Histories | None:
        """Return the histories of what these snapshots measured, given by step.

        `only`: of these probes. None if they measured nothing.
        """
        jobs = {job: number for number, job in enumerate(sorted({one.job for one in chosen}))}
        cells = self.cache.cells(one.found.id for one in chosen)
        if only is not None:
            wanted = np.zeros(
                max(only.max(), *(c["probe"].max(initial=0) for c in cells)) + 1, bool
            )
            wanted[only] = True
            cells = [part[wanted[part["probe"]]] for part in cells]
        if not any(map(len, cells)):
            return None
        taken = [
            StepMeasured(
                one.found.global_step,
                jobs[one.job],
                one.is_final,
                NONE if one.found.job_tokens is None else one.found.job_tokens,
            )
            for one in chosen
        ]
        return Histories(taken, cells, by_split=by_split)

    # ---- answers ---------------------------------------------------------------------------------

    def datasets(self) -> Answer:
        """Return every dataset that has snapshots, with its jobs."""
        groups: dict[tuple[str, str], list[Counted]] = {}
        for one in in_steps(self.counted.values()):
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
        cells = np.concatenate(self.cache.cells(one.found.id for one in mine))
        counts = {
            split: len(np.unique(cells["probe"][cells["split"] == number]))
            for number, split in enumerate(SPLITS)
        }
        return {
            **self.about(mine),
            "snapshots": len(mine),
            "probes": {split: count for split, count in counts.items() if count},
            "last_at": mine[-1].found.at,
            "jobs": jobs,
        }

    def snapshot(self, prefix: str, step: int, lineage: str | None) -> Answer:
        """Return every probe at one step. Raises NotFound, UsageError."""
        mine = [o for o in self.dataset(prefix, lineage, None) if o.found.global_step == step]
        if not mine:
            raise NotFound(f"Dataset {prefix} has no snapshot at step {step}.")
        chosen = mine[-1]
        names = (
            *("probe", "split", "dataset", "row", "prompt", "expected", "answer", "tokens"),
            *("loss", "token_accuracy", "first_mismatch", "exact_match"),
        )
        return {
            **self.about([chosen]),
            "global_step": step,
            "segment": chosen.found.segment,
            "fence": chosen.found.fence,
            "probes": [
                {name: row[name] for name in names}
                for row in sorted(self.rows(chosen.found.id), key=in_order)
            ],
        }

    def example(self, prefix: str, lineage: str | None) -> Answer:
        """Return one probe's whole life, with what the model said at each step."""
        number = self.probe(prefix)
        looks = self.looks_at(number)
        names = sorted({self.counted[snapshot].job.lineage for snapshot in looks})
        name = only([n for n in names if lineage in (None, n)], "lineage with probe", prefix)
        first = next(iter(looks.values()))
        mine = {k: row for k, row in looks.items() if self.counted[k].job.lineage == name}
        points = line(self.point(row, snapshot) for snapshot, row in mine.items())
        return {
            **{key: first[key] for key in ("probe", "dataset", "row", "prompt", "expected")},
            "lineage": name,
            **self.verdict(judge(points)),
            "speed": asdict(speed(points)),
            "points": [
                {**point.__dict__, "is_right": point.is_right, "name": self.job_name(point.job)}
                for point in points
            ],
            "tokens": self._tokens(mine, number, points[-1]),
        }

    def looks_at(self, probe: int) -> dict[int, Row]:
        """Return all measurements of a probe in counted snapshots, by the snapshot's id."""
        asked = self.cache.asked([probe])[probe]
        answers, datasets = self.cache.answers_to(probe), self.cache.datasets()
        found = {}
        for one, cells in zip(self.counted.values(), self.cache.cells(self.counted), strict=True):
            for cell in cells[cells["probe"] == probe]:
                dataset, answer = datasets[int(cell["dataset"])], answers.get(one.found.id)
                row = {**asked, **values_of(cell), "dataset": dataset, "answer": answer}
                found[one.found.id] = row
        return found

    def _tokens(self, looks: dict[int, Row], probe: int, last: Point) -> list[Answer]:
        """Return the pieces of the expected answer, each with its probability at the last point."""
        for snapshot, row in looks.items():
            one = self.counted[snapshot].found
            if (one.global_step, one.fence) == (last.global_step, last.fence):
                if row["loss"] is None:
                    return []
                pairs = zip(*self.cache.tokens(snapshot, probe), strict=True)
                return [{"piece": p, "probability": probability_of(s)} for p, s in pairs]
        return []

    def verdict(self, verdict: Verdict) -> Answer:
        name = self.job_name(verdict.job) if verdict.job else None
        return {"state": verdict.state, "step": verdict.step, "job": verdict.job, "during": name}

    def job_name(self, job: str) -> str:
        return self.file_name(JobId.parse(job))

    def states(self) -> Counter[tuple[Split, State]]:
        """Return how many probes of all lineages have each state, by split as last measured."""
        found: Counter[tuple[Split, State]] = Counter()
        for lineage in {one.job.lineage for one in self.counted.values()}:
            lives = self.histories(self.of_lineage(lineage))
            if lives is not None:
                splits, (states, _) = lives.values("split", lives.ends), lives.verdicts()
                for split, state in zip(splits, states, strict=True):
                    found[SPLITS[split], STATES[state]] += 1
        return found


def in_steps(those: Iterable[Counted]) -> list[Counted]:
    return sorted(those, key=lambda one: (one.found.global_step, one.found.fence))


def decision_of(found: CachedSnapshot) -> SnapshotDecision | None:
    """Return why a snapshot was taken; None if its file does not say so in a known form."""
    try:
        return SnapshotDecision.model_validate_json(found.decision or "")
    except ValidationError:
        return None


def only(found: Sequence[str], what: str, prefix: str) -> str:
    if not found:
        raise NotFound(f"There is no {what} {prefix}.", next_step="duramen evolution list")
    if len(found) > 1:
        some = ", ".join(name[:40] for name in found[:4])
        raise UsageError(f"{len(found)} of {what} {prefix}: {some}; use a longer prefix.")
    return found[0]
