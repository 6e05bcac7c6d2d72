"""Turns rows into tokens, or gives the reason why a row cannot be used."""

from typing import NamedTuple

from services.model.encoded import Encoded
from services.model.template import Chat, TemplateRefuses
from shared.errors import CannotTrain
from shared.formats.dataset import CanonicalRow
from shared.formats.probe import Probe
from shared.protocol.names import OnLong

NOTHING_TRAINED = "nothing to train: no token of it is learned"
# Names that a row cannot set for its template, besides those of special tokens: they are set here.
PROTECTED = {
    *("messages", "conversations", "tools", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "return_assistant_tokens_mask", "return_generation_indices"),
    *("raise_exception", "strftime_now", "tojson", "self", "loop"),
}


class Why(NamedTuple):
    """The reason why a row is not trained. `tokens`: its length, if that is the reason.

    `bad`: it counts as a bad row. `is_refusal`: the template refuses it. `example`: its text, if
    its mask would be wrong.
    """

    reason: str
    tokens: int | None = None
    bad: bool = False
    is_refusal: bool = False
    example: str | None = None


class Encoder:
    """Encodes rows and gives the reason if one is left out."""

    def __init__(self, chat: Chat, max_length: int, on_long: OnLong = "set_aside") -> None:
        self.chat = chat
        self.max_length = max_length
        self.on_long = on_long

    def encode(self, row: CanonicalRow | Probe) -> Encoded | Why:
        """Return the tokens of a row, or the reason why it cannot be used.

        Raises CannotTrain (template).
        """
        if isinstance(row, Probe):
            plain = CanonicalRow(row.id, row.messages, text=row.text)
            row = CanonicalRow.parse(row.line.encode()) if row.line else plain
        if row.text is not None:
            return self.fitted(self.chat.encode_text(row.text, row.weight))
        if not any(m.role == "assistant" for m in row.messages):
            return Why("nothing to train: no assistant message", bad=True)
        names = PROTECTED | self.chat.renders.template.specials.keys()
        own = sorted(names & (row.template_kwargs or {}).keys())
        if own:
            return Why(f"template_kwargs cannot set {own[0]}, which Duramen itself sets", bad=True)
        try:
            encoded = self.chat.encode(row.messages, row.tools, row.template_kwargs)
        except TemplateRefuses as error:
            return Why(f"the chat template refuses it: {error}", bad=True, is_refusal=True)
        except CannotTrain as error:
            if error.kind != "mask":
                raise
            return Why(error.message, bad=True, example=error.example)
        return self.fitted(encoded)

    def fitted(self, encoded: Encoded) -> Encoded | Why:
        """Return the tokens if they are short enough, else cut to length, or the reason why not.

        They are cut only if `on_long` is `truncate` and something to train is left.
        """
        if not encoded.labels:
            return Why(NOTHING_TRAINED, bad=True)
        longest = max(encoded.lengths)
        if longest <= self.max_length:
            return encoded
        cut = encoded.cut(self.max_length) if self.on_long == "truncate" else None
        return cut or Why(f"longer than {self.max_length} tokens", longest)

    def is_whole(self, encoded: Encoded) -> bool:
        """Return False if a row was cut, or may have been: its last token then ends no answer."""
        return self.on_long != "truncate" or max(encoded.lengths) < self.max_length

    def again(self, row: CanonicalRow | Probe) -> Encoded:
        """Return the tokens of a row that is in the plan.

        Raises CannotTrain (data) if it cannot be used any more, or as `encode` does.
        """
        found = self.encode(row)
        if isinstance(found, Why):
            raise CannotTrain("data", f"A row of the plan cannot be used any more: {found.reason}.")
        return found
