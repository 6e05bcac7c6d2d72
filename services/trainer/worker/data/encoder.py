"""Rows to tokens, or the reason why a row cannot be used."""

from typing import NamedTuple

from services.model.template import Chat, Encoded, TemplateRefuses
from shared.errors import CannotTrain
from shared.formats.dataset import CanonicalRow
from shared.formats.probe import Probe
from shared.protocol.names import OnLong


class Why(NamedTuple):
    """Why a row is not trained. `tokens`: its length, if that is the reason."""

    reason: str
    tokens: int | None = None


class Encoder:
    """Encodes rows and says why one is left out."""

    def __init__(self, chat: Chat, max_length: int, on_long: OnLong = "set_aside") -> None:
        self.chat = chat
        self.max_length = max_length
        self.on_long = on_long

    def encode(self, row: CanonicalRow | Probe) -> Encoded | Why:
        """The tokens, or the reason why this row cannot be used."""
        if isinstance(row, Probe):
            plain = CanonicalRow(row.id, row.messages, text=row.text)
            row = CanonicalRow.parse(row.line.encode()) if row.line else plain
        if row.text is not None:
            return self.fitted(self.chat.encode_text(row.text))
        if not any(m.role == "assistant" for m in row.messages):
            return Why("nothing to train: no assistant message")
        if row.messages[0].role == "assistant":
            return Why("begins with an answer to nothing")
        try:
            encoded = self.chat.encode(row.messages, row.tools)
        except TemplateRefuses as error:
            return Why(f"the chat template refuses it: {error}")
        return self.fitted(encoded)

    def fitted(self, encoded: Encoded) -> Encoded | Why:
        """Not longer than may be: cut, if that is wanted and leaves something to train."""
        longest = max(encoded.lengths)
        if longest <= self.max_length:
            return encoded
        cut = encoded.cut(self.max_length) if self.on_long == "truncate" else None
        return cut or Why(f"longer than {self.max_length} tokens", longest)

    def is_whole(self, encoded: Encoded) -> bool:
        """False for what was cut, or may have been: its last token ends no answer."""
        return self.on_long != "truncate" or max(encoded.lengths) < self.max_length

    def again(self, row: CanonicalRow | Probe) -> Encoded:
        """The tokens of a row that is in the plan. Raises Failure (data)."""
        found = self.encode(row)
        if isinstance(found, Why):
            raise CannotTrain("data", f"A row of the plan cannot be used any more: {found.reason}.")
        return found
