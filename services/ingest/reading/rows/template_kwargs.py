"""Options that a row hands to its chat template, such as `enable_thinking`."""

from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.fields import Fields
from services.ingest.reading.rows.meaning import SWITCH_KEYS, TEMPLATE_KEYS
from services.ingest.reading.rows.words import json_value

# The trainer sets these itself.
RESERVED = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation",
        "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
        "tokenize", "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip


def template_kwargs(fields: Fields) -> dict[str, Any]:
    """Return the options of a row for its template; nulls are left out. Raises RowError."""
    found: dict[str, Any] = {}
    for name, value in fields.take_said(TEMPLATE_KEYS):
        is_text = type(value) is str
        said = json_value(value, name, "template_kwargs", f"`{name}`") if is_text else value
        if type(said) is not dict:
            message = f"`{name}` must be an object; this is {kind(said)}."
            raise RowError(name, "template_kwargs", message)
        wrong = RESERVED & said.keys()
        if wrong:
            message = f"`{name}` may not set `{min(wrong)}`, which the trainer sets itself."
            raise RowError(name, "template_kwargs", message)
        found |= {key: part for key, part in said.items() if part is not None}
    for name, value in fields.take_said(SWITCH_KEYS):
        found[name] = value
    return found
