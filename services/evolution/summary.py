"""What was learned from a dataset: numbers for each split, and each example with its state."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from services.evolution.api_answers import Answer, Answers, Counted
from services.evolution.cells import NONE
from services.evolution.histories import Fractions, Histories, Numbers
from services.evolution.lifelines import STATES, Verdict
from services.evolution.tables import mean_of, number_or_none
from shared.errors import NotFound
from shared.protocol.names import SPLITS

SPEEDS = ("steps_to_learned", "tokens_to_learned", "loss_fall_per_1000_tokens")


@dataclass(frozen=True)
class Watched:
    """The examples that a dataset's snapshots measured, in the order in which they are shown.

    `own` are their histories in these snapshots, by split; `order` are its indices by split,
    dataset and row. `verdicts` are those of `own`, by all that was measured in the lineage.
    """

    own: Histories
    order: Numbers
    verdicts: list[Verdict]

    @property
    def splits(self) -> NDArray[np.int8]:
        found: NDArray[np.int8] = self.own.values("split", self.own.starts)
        return found


def watched_examples(answers: Answers, mine: Sequence[Counted]) -> Watched:
    """Return the examples of a dataset's snapshots. Raises NotFound if they measured nothing."""
    own = answers.histories(mine, by_split=True)
    if own is None:
        raise NotFound("These snapshots have been replaced by newer ones. Try again.")
    lineage = answers.of_lineage(mine[-1].job.lineage)
    # Where no other file was trained, all that was measured is of these examples.
    others = None if len(lineage) == len(mine) else own.probes
    lives = answers.histories(lineage, only=others)
    assert lives is not None
    states, at = lives.verdicts()
    names = answers.cache.datasets()
    places = {number: place for place, number in enumerate(sorted(names, key=names.__getitem__))}
    dataset = np.array([places[number] for number in own.values("dataset", own.ends).tolist()])
    row, split = own.values("row", own.ends), own.values("split", own.ends)
    order = np.lexsort((row, dataset, split))
    verdicts = []
    for place in np.searchsorted(lives.probes, own.probes):
        told = at[place]
        if told == NONE:
            verdicts.append(Verdict(STATES[states[place]]))
        else:
            one = lineage[lives.snapshot[told]]
            step = int(lives.step[told])
            verdicts.append(Verdict(STATES[states[place]], step, one.job.path))
    return Watched(own, order, verdicts)


def summarise(answers: Answers, prefix: str, lineage: str | None, run: int | None) -> Answer:
    """Return what was learned: numbers for each split, and each probe with its state.

    Raises NotFound, UsageError.
    """
    mine = answers.dataset(prefix, lineage, run)
    those = watched_examples(answers, mine)
    speeds = those.own.speeds()
    return {
        **answers.about(mine),
        "snapshots": len(mine),
        "splits": {
            split: split_summary(those, speeds, chosen)
            for number, split in enumerate(SPLITS)
            if (chosen := np.flatnonzero(those.splits == number)).size
        },
        "probes": probes(answers, those, speeds),
    }


def probes(
    answers: Answers, those: Watched, speeds: tuple[Fractions, Fractions, Fractions]
) -> list[Answer]:
    own = those.own
    asked = answers.cache.asked(own.probes)
    datasets = answers.cache.datasets()
    answered = np.add.reduceat(own.asked, own.starts, dtype=np.int64)
    probe, dataset = own.probes.tolist(), own.values("dataset", own.ends).tolist()
    split, row = own.values("split", own.ends), own.values("row", own.ends)
    found = []
    for number, at in enumerate(those.order, 1):
        first, last = own.starts[at], own.ends[at]
        texts = asked[probe[at]]
        found.append(
            {
                "number": number,
                **{name: texts[name] for name in ("probe", "prompt", "expected")},
                "split": SPLITS[split[at]],
                "dataset": datasets[dataset[at]],
                "row": int(row[at]),
                **answers.verdict(those.verdicts[at]),
                "loss_first": number_or_none(own.loss[first]),
                "loss_last": number_or_none(own.loss[last]),
                "is_right": bool(own.right[last]),
                "asked": int(answered[at]),
                "speed": {
                    name: number_or_none(values[at])
                    for name, values in zip(SPEEDS, speeds, strict=True)
                },
            }
        )
    return found


def split_summary(
    those: Watched, speeds: tuple[Fractions, Fractions, Fractions], chosen: Numbers
) -> Answer:
    """Return the means of the first and of the last values of a split's probes.

    Each probe counts with its own first and last measurement.
    """
    own = those.own
    first, last = own.first_where(own.asked)[chosen], own.last_where(own.asked)[chosen]
    first, last = first[first != NONE], last[last != NONE]
    states = [those.verdicts[at].state for at in chosen]
    normalized = own.values("normalized_match", last)
    return {
        "count": len(chosen),
        "loss_first": mean_of(own.loss[own.starts[chosen]]),
        "loss_last": mean_of(own.loss[own.ends[chosen]]),
        "answered": len(last),
        "exact_match_first": mean_of(own.values("exact_match", first)),
        "exact_match_last": mean_of(own.values("exact_match", last)),
        "normalized_match_last": mean_of(normalized[normalized != NONE]),
        "similarity_last": mean_of(own.values("similarity", last)),
        "confidence_last": mean_of(own.values("confidence", last)),
        "states": {state: states.count(state) for state in STATES},
        "speed": typical(speeds, chosen),
    }


def typical(speeds: tuple[Fractions, Fractions, Fractions], chosen: Numbers) -> Answer:
    """Return the median speed of what was learned, and the mean fall of the loss over all."""
    *learned, fall = (values[chosen] for values in speeds)
    medians = [
        median(known.tolist()) if (known := values[~np.isnan(values)]).size else None
        for values in learned
    ]
    return dict(zip(SPEEDS, (*medians, mean_of(fall)), strict=True))
