"""What Duramen does not train: pictures and sounds, trees, masks of tokens."""

from typing import Any

from services.ingest.reading.row_error import RowError
from services.ingest.reading.rows.fields import Fields, is_neutral
from services.ingest.reading.rows.meaning import (
    CONVERSATIONS,
    MASK_KEYS,
    MEDIA_KEYS,
    OF_ROWS,
    TEXT_KEY,
)
from services.ingest.reading.rows.roles import ROLE_KEYS

ALSO_MASKED = frozenset({"user", "human"})  # a `mask` that names them says what is done anyway


def refuse_untrainable(fields: Fields, row: dict[str, Any]) -> None:
    """Refuse a row with pictures or sounds, of a tree, or with a mask of its tokens.

    Raises RowError.
    """
    for name, _ in fields.take_said(MEDIA_KEYS):
        message = (
            f"The row has `{name}`: Duramen trains on text only. Leave such rows out, or put what "
            "it shows into words."
        )
        raise RowError(name, "not_text", message)
    for name, value in fields.take_said(MASK_KEYS):
        is_usual = type(value) is str and value.strip().lower() in ALSO_MASKED
        if value is not False and not is_usual:
            message = (
                f"The row has `{name}`, which says for tokens or segments what is learned. Write "
                "`weight` or `train_detail` into the turns instead."
            )
            raise RowError(name, "mask", message)
    if is_node(fields, row):
        message = (
            "The row is one message of a tree of messages (`parent_id`), not a conversation. "
            "Follow each path from its root to its last answer, and write it as one row of "
            "`messages`."
        )
        raise RowError("row", "tree", message)
    prompt = fields.values.get("prompt")
    if type(prompt) is dict and "replies" in prompt:
        message = (
            "The row is a whole tree of messages (`replies`), not a conversation. Write each path "
            "from its root to its last answer as one row of `messages`."
        )
        raise RowError("prompt", "tree", message)


def is_node(fields: Fields, row: dict[str, Any]) -> bool:
    """Return whether a row is a message of a tree: it has a parent, a speaker and words."""
    has_parent = any(key in {name.lower() for name in row} for key in ("parent_id", "parentid"))
    has_parent = has_parent or "messagetreeid" in fields
    if not has_parent or any(key in fields for key in CONVERSATIONS if key != TEXT_KEY):
        return False
    speaker = any(key in fields for key in ROLE_KEYS)
    return speaker or "messageid" in fields


def refuse_unused(fields: Fields) -> None:
    """Refuse a row with a key that changes its meaning and has not been used. Raises RowError."""
    for key, name, value in fields.unread():
        if key in OF_ROWS and not is_neutral(value):
            message = (
                f"`{name}` changes what a row means, and has no use in this layout. Leave it out, "
                f"or put `columns: {{ignore: {name}}}` into the sidecar."
            )
            raise RowError(name, "not_used", message)
