"""The rows of a stored dataset."""

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class ChatTurn(BaseModel):
    """One turn of a canonical row. What it has not is left out when it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[dict[str, Any], ...] | None = None  # of an assistant
    name: str | None = None  # of a tool
    tool_call_id: str | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}


def row_id(line: bytes) -> str:
    """SHA-256 (hex) of one canonical line; a trailing newline does not count."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()
