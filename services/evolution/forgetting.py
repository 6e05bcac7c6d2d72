"""What later files cost earlier ones: how well each file is known after each version, and blame.

An example counts for a version if it was measured in the training that made it, at its last
measurement there: what was known before says nothing about what is known now.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from services.evolution.api_answers import Answer, Answers, only
from services.evolution.cells import NONE
from services.evolution.histories import Histories, Numbers
from services.evolution.lifelines import STATES
from services.evolution.matrix import SHOWN_TEXT
from services.evolution.tables import mean_of
from shared.formats.version import version_name
from shared.ledger.lineage import Line


@dataclass(frozen=True)
class VersionStep:
    """A version in the ancestry of the head: the steps that made it are (`after`, `step`]."""

    version: int
    job: str
    after: int
    step: int


def forgetting_of(answers: Answers, lineage: str | None) -> Answer:
    """Return the table of file and version, and the forgotten examples. Raises NotFound."""
    names = sorted({one.job.lineage for one in answers.counted.values()})
    name = only([n for n in names if lineage in (None, n)], "lineage", lineage or "with snapshots")
    line = answers.table.lines[name]
    chosen = answers.of_lineage(name)
    lives = answers.histories(chosen)
    versions = version_steps(line)
    found = {
        "lineage": name,
        "versions": [
            {
                "version": version_name(one.version),
                "global_step": one.step,
                "name": answers.job_name(one.job),
            }
            for one in versions
        ],
        "files": [],
        "forgotten": [],
    }
    if lives is not None:
        found["files"] = files(answers, lives, versions)
        found["forgotten"] = forgotten(answers, lives, line)
    return found


def version_steps(line: Line) -> list[VersionStep]:
    """Return the versions that training continues from, in order."""
    marks = set(line.ancestry())
    found: list[VersionStep] = []
    for version, mark in sorted(line.versions.items()):
        close = line.version_close(version)
        if mark in marks and close is not None:
            after = found[-1].step if found else -1
            found.append(VersionStep(version, close.job, after, close.to_step))
    return found


def files(answers: Answers, lives: Histories, versions: Sequence[VersionStep]) -> list[Answer]:
    """Return for each dataset what was known of it in the training of each version."""
    names = answers.cache.datasets()
    file_names = {job.sha256: known.record.name for job, known in answers.table.jobs.items()}
    dataset = lives.values("dataset", lives.starts)
    first = {number: lives.step[lives.starts[dataset == number]].min() for number in set(dataset)}
    at = [lives.last_where((lives.step > v.after) & (lives.step <= v.step)) for v in versions]
    return [
        {
            "dataset": names[int(number)],
            "name": file_names.get(names[int(number)], ""),
            "known": [share_known(lives, cells[dataset == number]) for cells in at],
        }
        for number in sorted(first, key=lambda number: (first[number], number))
    ]


def share_known(lives: Histories, cells: Numbers) -> Answer:
    measured = cells[cells != NONE]
    return {
        "measured": len(measured),
        "right": mean_of(lives.right[measured].astype(float)),
        "loss": mean_of(lives.loss[measured]),
    }


def forgotten(answers: Answers, lives: Histories, line: Line) -> list[Answer]:
    """Return every forgotten example with the files that were trained while it was lost."""
    states, at = lives.verdicts()
    chosen = np.flatnonzero(states == STATES.index("forgotten"))
    probes, dataset = lives.probes, lives.values("dataset", lives.starts)
    asked = answers.cache.asked(probes[chosen])
    datasets = answers.cache.datasets()
    found = []
    for place in chosen:
        lost = at[place]
        good, step = int(lives.step[lost - 1]), int(lives.step[lost])
        texts = asked[int(probes[place])]
        found.append(
            {
                "probe": texts["probe"],
                "dataset": datasets[int(dataset[place])],
                "prompt": texts["prompt"][:SHOWN_TEXT],
                "expected": texts["expected"][:SHOWN_TEXT],
                "last_right": good,
                "first_wrong": step,
                "during": list(
                    dict.fromkeys(map(answers.job_name, jobs_between(line, good, step)))
                ),
            }
        )
    return found


def jobs_between(line: Line, after: int, until: int) -> Iterable[str]:
    """Yield the jobs, as paths, of which steps in (`after`, `until`] were trained."""
    for segment in line.living().values():
        end = segment.closed.to_step if segment.closed else until
        if segment.first.global_step < until and end > after:
            yield segment.job.path
