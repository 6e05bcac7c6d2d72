"""The answers of the trainer: rows as the model sees them, of a dataset or of a preview."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.answers import Reply
from shared.protocol.names import OnLong

MOST_PREVIEWED = 200  # rows
ROWS_SHOWN = 3


class Token(Reply):
    """A token: `token` is the tokenizer's own spelling, `text` what it decodes to by itself."""

    id: int
    token: str
    text: str
    trained: bool


class RowFailed(Reply):
    """The reason why a row cannot be shown: its mask would be wrong."""

    kind: str
    message: str
    example: str | None = None


class RowShown(Reply):
    """A row, counted from 1, as the sequences that are trained, or why it is not trained.

    `left_out` is the reason why it is not trained, or None. A row that `failed` has neither.
    """

    lineage: str
    dataset: str
    row: int
    sequences: list[list[Token]]
    left_out: str | None = None
    failed: RowFailed | None = None


class SparedLayers(Reply):
    """Layers that get no adapter unless they are named, and why."""

    names: list[str]
    why: str


class BaseTried(Reply):
    """What was found when a base was tried out with an adapter, or why it cannot be trained.

    `what` was tried: the base, or a smaller network of its kind. `losses`: on one made-up text,
    before and after a few steps. `doubt`: why the smaller network says nothing about the base.
    """

    what: str | None = None
    seconds: float | None = None
    adapted: tuple[str, ...] = ()
    left_out: tuple[SparedLayers, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: int | None = None
    losses: tuple[float, ...] = ()
    doubt: str | None = None
    failed: RowFailed | None = None


class RowsToPreview(BaseModel):
    """The body of a request to preview rows, given as canonical lines.

    The first `shown` are shown token by token, all are counted. `max_length` (tokens) and `on_long`
    are those of the job, or None for those of the trainer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_PREVIEWED)]
    shown: Annotated[int, Field(ge=0, le=ROWS_SHOWN)] = ROWS_SHOWN
    max_length: Annotated[int, Field(gt=0)] | None = None
    on_long: OnLong | None = None


class ShownSequence(Reply):
    """The beginning and the end of a sequence of `tokens` tokens, `trained` of them trained.

    What lies between `head` and `tail` was left out, because it is long.
    """

    tokens: int
    trained: int
    head: list[Token]
    tail: list[Token]


class PreviewedRow(Reply):
    """A row as the sequences that would be trained, or the reason why it would not be."""

    sequences: list[ShownSequence]
    left_out: str | None = None
    failed: RowFailed | None = None


class UnfitRows(Reply):
    """Rows that would not be trained, and why. `first` is one of them, from 0 in the request."""

    reason: str
    rows: int
    first: int


class Unseen(Reply):
    """Something about the rows that usually goes unseen: it holds for `rows` of `of` rows."""

    kind: Literal[
        "no_stop", "double_bos", "header", "system", "tools", "thought", "tool_result", "cut"
    ]
    rows: int
    of: int
    message: str


class RowsPreviewed(Reply):
    """Rows as the model would read them today, and what was counted of them.

    `counted` rows were rendered, fewer than asked for if time was short. Lengths are in tokens, of
    the longest sequence of a row, and None if no row could be rendered. `tokens` and `trained` are
    those of the rows that would be trained. A job takes `bad` rows only if its `allow_bad` does.
    """

    lineage: str
    max_length: int
    on_long: OnLong
    shown: list[PreviewedRow]
    counted: int
    fit: int
    tokens: int
    trained: int
    length_50: int | None
    length_95: int | None
    length_max: int | None
    too_long: int
    bad: int
    unfit: list[UnfitRows]
    unseen: list[Unseen]


class JobLog(Reply):
    """The last part of the log of the job that is being trained."""

    text: str
