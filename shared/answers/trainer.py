"""What the trainer answers: a row of a dataset as the model sees it."""

from shared.answers import Reply


class Token(Reply):
    """`token`: the tokenizer's own spelling; `text`: what it decodes to by itself."""

    id: int
    token: str
    text: str
    trained: bool


class RowFailed(Reply):
    """Why a row cannot be shown: its mask would be wrong."""

    kind: str
    message: str
    example: str | None = None


class RowShown(Reply):
    """A row, counted from 1, as the sequences that are trained, or why it is not.

    `left_out`: why it is not trained, or None; neither is said of a row that `failed`.
    """

    lineage: str
    dataset: str
    row: int
    sequences: list[list[Token]]
    left_out: str | None = None
    failed: RowFailed | None = None
