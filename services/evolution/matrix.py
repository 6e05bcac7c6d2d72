"""All measurements of a dataset's examples as one byte each, and the examples in columns.

For a page that shows thousands of examples at once: a row for each example, in the order of
`probes`, and a column for each step.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.evolution.api_answers import Answer, Answers
from services.evolution.summary import Watched, watched_examples
from services.evolution.tables import number_or_none
from shared.errors import UsageError
from shared.protocol.names import SPLITS

IS_RIGHT = 0x80
LEAST_LOSS, MOST_LOSS = 0.001, 32.0  # nats a token: 1 and 127, equal factors between them
LOSS_CODES = 126
SHOWN_TEXT = 200  # characters; the whole text comes with the history of an example
SHOWN_COLUMNS = (
    *("probe", "split", "row", "prompt", "expected", "state", "step"),
    *("loss_first", "loss_last", "is_right"),
)


@dataclass(frozen=True)
class Matrix:
    """The bytes column after column, the step of each column, and a name for the rows.

    A byte is 0 where nothing was measured; else its highest bit says whether the example was right,
    and the others are its loss on a logarithmic scale from 1 (0.001 or less) to 127 (32 or more, or
    not a number).
    """

    steps: list[int]
    rows: int
    rows_name: str
    data: bytes

    @property
    def etag(self) -> str:
        digest = hashlib.sha256(self.data + self.rows_name.encode() + repr(self.steps).encode())
        return f'"{digest.hexdigest()[:32]}"'


def matrix(answers: Answers, prefix: str, lineage: str | None, since: int) -> Matrix:
    """Return the columns of the steps after `since`. Raises NotFound, UsageError."""
    those = watched_examples(answers, answers.dataset(prefix, lineage, None))
    own = those.own
    steps, column = np.unique(own.step, return_inverse=True)
    row_of = np.empty(len(own), np.int64)
    row_of[those.order] = np.arange(len(own))
    found = np.zeros((len(steps), len(own)), np.uint8)
    found[column, own.each(row_of)] = codes(own.loss) | own.right * np.uint8(IS_RIGHT)
    later = steps > since
    return Matrix(steps[later].tolist(), len(own), rows_name_of(those), found[later].tobytes())


def codes(loss: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return losses as numbers from 1 to 127."""
    within = np.clip(np.nan_to_num(loss, nan=MOST_LOSS), LEAST_LOSS, MOST_LOSS)
    scale = np.log(within / LEAST_LOSS) / np.log(MOST_LOSS / LEAST_LOSS)
    found: NDArray[np.uint8] = (1 + np.rint(LOSS_CODES * scale)).astype(np.uint8)
    return found


def rows_name_of(those: Watched) -> str:
    """Return a short name that changes when the rows of the matrix do."""
    rows = those.own.probes[those.order].astype("<i8").tobytes() + those.splits.tobytes()
    return hashlib.sha256(rows).hexdigest()[:16]


def probe_columns(
    answers: Answers, prefix: str, lineage: str | None, wanted: Collection[str]
) -> Answer:
    """Return the examples of a dataset in columns, all or those that are wanted.

    Raises NotFound, UsageError.
    """
    if odd := set(wanted) - set(SHOWN_COLUMNS):
        known = ", ".join(SHOWN_COLUMNS)
        raise UsageError(f"There is no column {min(odd)}; there are {known}.")
    mine = answers.dataset(prefix, lineage, None)
    those = watched_examples(answers, mine)
    found = example_columns(answers, those)
    chosen = {name: found[name] for name in wanted or SHOWN_COLUMNS}
    return {
        **answers.about(mine),
        "rows_name": rows_name_of(those),
        "count": len(those.own),
        **chosen,
    }


def example_columns(answers: Answers, those: Watched) -> dict[str, list[Any]]:
    own, order = those.own, those.order
    asked = answers.cache.asked(own.probes)
    texts = [asked[probe] for probe in own.probes[order].tolist()]
    first, last = own.starts[order], own.ends[order]
    verdicts = [those.verdicts[at] for at in order]
    return {
        "probe": [text["probe"] for text in texts],
        "split": [SPLITS[number] for number in own.values("split", last)],
        "row": own.values("row", last).tolist(),
        "prompt": [text["prompt"][:SHOWN_TEXT] for text in texts],
        "expected": [text["expected"][:SHOWN_TEXT] for text in texts],
        "state": [verdict.state for verdict in verdicts],
        "step": [verdict.step for verdict in verdicts],
        "loss_first": [number_or_none(value) for value in own.loss[first]],
        "loss_last": [number_or_none(value) for value in own.loss[last]],
        "is_right": own.right[last].tolist(),
    }
