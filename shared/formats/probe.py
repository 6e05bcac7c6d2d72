"""Rows and probes: which examples are held out, and which are watched during training.

Every choice here is a function of the row's content alone (its id), never of its place in a file,
so a row keeps its role when a file is sorted, cut or repeated. Does not need torch.
"""

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from shared.formats.dataset import ChatTurn as Message
from shared.protocol.names import Sha256, Split


class Probe(BaseModel):
    """An example that is measured at every snapshot. `id` is its row id, `row` its line from 0.

    `line`: the canonical row itself if it has tools, because templates show them in its own order.
    `text`: plain text instead of messages; it is measured as a whole, because there is nothing to
    ask.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Sha256
    split: Split
    dataset: Sha256
    row: int
    messages: tuple[Message, ...] = ()
    line: str | None = None
    text: str | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}

    @property
    def prompt(self) -> str:
        """The question, or all turns before the answer, as people read it; empty for plain text."""
        if self.text is not None:
            return ""
        before = self.messages[: self.answer_turn]
        if len(before) == 1:
            return before[0].content
        return "\n".join(f"{m.role}: {m.content}" for m in before)

    @property
    def expected(self) -> str:
        if self.text is not None:
            return self.text
        return self.messages[self.answer_turn].content

    @property
    def answer_turn(self) -> int:
        """The index of the last assistant message. Raises ValueError if there is none."""
        for turn in range(len(self.messages) - 1, -1, -1):
            if self.messages[turn].role == "assistant":
                return turn
        raise ValueError(f"probe {self.id[:12]} has no assistant message")
