"""Many histories in columns: the same states and speeds as each for itself."""

import random
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from services.evolution.cells import NONE, Cells, cells_of, values_of
from services.evolution.histories import Histories, StepMeasured
from services.evolution.lifelines import STATES, Point, judge, line
from services.evolution.speed import speed
from services.evolution.summary import SPEEDS
from services.evolution.tables import number_or_none
from shared.protocol.names import SPLITS

SNAPSHOTS = 14
PROBES = 400
SEEDS = 25  # of PROBES histories each


def snapshots_of(chance: random.Random) -> list[StepMeasured]:
    """Snapshots by step: now and then two at one step, some that close a job."""
    taken, step, job, tokens = [], 0, 0, 0
    for _ in range(SNAPSHOTS):
        final = chance.random() < 0.3
        known = chance.random() < 0.9
        taken.append(StepMeasured(step, job, final, tokens if known else NONE))
        if chance.random() < 0.85:
            step, tokens = step + chance.randint(1, 5), tokens + chance.choice((0, 50, 300))
        if final:
            job, tokens = job + 1, 0
    return taken


def row(chance: random.Random, probe: int) -> dict[str, Any]:
    asked = chance.random() < 0.6
    exact = chance.random() < 0.5 if asked else None
    return {
        "probe": str(probe),
        "dataset": "one",
        "row": probe,
        "split": chance.choice(SPLITS),
        "tokens": 3,
        "first_mismatch": None,
        "loss": chance.choice((None, 0.0, 0.5, 0.8, 1.0, 1.5)),
        "token_accuracy": chance.choice((None, 0.5, 1.0)),
        "exact_match": exact,
        "normalized_match": chance.choice((None, True, False)) if asked else None,
        "similarity": None,
        "confidence": 0.5 if asked else None,
        "is_cut": asked and chance.random() < 0.1,
    }


def point(taken: StepMeasured, order: int, values: dict[str, Any]) -> Point:
    names = ("split", "loss", "token_accuracy", "exact_match", "normalized_match")
    return Point(
        **{name: values[name] for name in names},
        global_step=taken.global_step,
        job=f"job {taken.job}",
        is_final=taken.is_final,
        fence=order,
        job_tokens=None if taken.tokens == NONE else taken.tokens,
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_columns_give_the_same_states_and_speeds(seed: int) -> None:
    chance = random.Random(seed)
    taken = snapshots_of(chance)
    numbers = {str(probe): probe for probe in range(PROBES)}
    cells: list[Cells] = []
    points: dict[int, list[Point]] = {}
    for order, one in enumerate(taken):
        rows = [row(chance, probe) for probe in range(PROBES) if chance.random() < 0.6]
        cells.append(cells_of(rows, numbers, {"one": 0}))
        for values in rows:
            points.setdefault(int(values["probe"]), []).append(point(one, order, values))
    found = Histories(taken, cells, by_split=False)
    assert found.probes.tolist() == sorted(points)
    states, at = found.verdicts()
    speeds = found.speeds()
    for place, probe in enumerate(found.probes.tolist()):
        life = line(points[probe])
        expected = judge(life)
        told = int(at[place])
        assert STATES[states[place]] == expected.state, life
        step = None if told == NONE else int(found.step[told])
        job = None if told == NONE else f"job {taken[found.snapshot[told]].job}"
        assert (step, job) == (expected.step, expected.job), life
        mine = {n: number_or_none(v[place]) for n, v in zip(SPEEDS, speeds, strict=True)}
        assert mine == asdict(speed(life)), life


def test_a_cell_gives_back_what_was_put_into_it() -> None:
    chance = random.Random(1)
    rows = [row(chance, probe) for probe in range(200)]
    cells = cells_of(rows, {str(probe): probe for probe in range(200)}, {"one": 0})
    for one, cell in zip(rows, cells, strict=True):
        values = values_of(cell)
        assert values == {name: one[name] for name in values} | {"is_cut": int(one["is_cut"])}


def test_a_number_that_is_too_large_is_refused() -> None:
    large = {**row(random.Random(1), 0), "tokens": 1 << 63}
    with pytest.raises(OverflowError):
        cells_of([large], {"0": 0}, {"one": 0})


def test_nothing_measured_is_no_history() -> None:
    assert len(np.unique(cells_of([], {}, {}))) == 0
