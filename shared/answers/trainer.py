"""The answers of the trainer: a row of a dataset as the model sees it."""

from shared.answers import Reply


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
