"""Loss and exact match by step: at each snapshot, and over all that is known so far."""

from collections.abc import Iterator

import numpy as np

from services.evolution.api_answers import Answer, Answers, decision_of
from services.evolution.cells import CELL, NONE, Cells
from services.evolution.tables import mean_of
from shared.protocol.names import SPLITS

SNAPSHOT_FIELDS = ("global_step", "position", "segment", "fence", "job", "at")


def curves(answers: Answers, prefix: str, lineage: str | None, run: int | None) -> Answer:
    """Return loss and exact match by step. Raises NotFound, UsageError.

    What is measured at a step is over the probes of that snapshot; `known` is over all probes so
    far, each at its last value: a curve that small snapshots do not bend.
    """
    mine = answers.dataset(prefix, lineage, run)
    cells = answers.cache.cells(one.found.id for one in mine)
    shown = []
    for one, here, known in zip(mine, cells, known_after(cells), strict=True):
        measured = by_split(here, here)
        shown.append(
            {
                **{name: getattr(one.found, name) for name in SNAPSHOT_FIELDS},
                "is_final": one.is_final,
                "job_tokens": one.found.job_tokens,
                "decision": decision_of(one.found),
                "splits": {
                    s: {**measured.get(s, {}), "known": found} for s, found in known.items()
                },
            }
        )
    return {**answers.about(mine), "snapshots": shown}


def known_after(cells: list[Cells]) -> Iterator[dict[str, Answer]]:
    """Yield, after each snapshot, the means over all examples so far, each at its last value."""
    keys = [part["probe"].astype(np.int64) * len(SPLITS) + part["split"] for part in cells]
    _, places = np.unique(np.concatenate(keys), return_inverse=True)
    count = int(places.max(initial=-1)) + 1
    last, asked = np.zeros(count, CELL), np.zeros(count, CELL)
    is_known, is_asked = np.zeros(count, bool), np.zeros(count, bool)
    at = 0
    for here in cells:
        place = places[at : at + len(here)]
        at += len(here)
        last[place], is_known[place] = here, True
        answered = here["exact_match"] != NONE
        asked[place[answered]], is_asked[place[answered]] = here[answered], True
        yield by_split(last[is_known], asked[is_asked])


def by_split(cells: Cells, asked: Cells) -> dict[str, Answer]:
    """Return means by split: loss and token accuracy over `cells`, exact match over `asked`."""
    found: dict[str, Answer] = {}
    for number, split in enumerate(SPLITS):
        those = cells[cells["split"] == number]
        exact = asked["exact_match"][asked["split"] == number]
        exact = exact[exact != NONE]
        if len(those):
            found[split] = {
                "count": len(those),
                "not_a_number": int(np.isnan(those["loss"]).sum()),
                "loss": mean_of(those["loss"]),
                "token_accuracy": mean_of(those["token_accuracy"]),
                "answered": len(exact),
                "exact_match": mean_of(exact),
            }
    return found
