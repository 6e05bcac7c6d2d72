"""The base of all messages: a closed, frozen model, written as compact JSON.

Every message carries `schema: 1` unless it says otherwise. Large data never travel on the bus: an
`ObjectRef` names them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.protocol.names import Sha256

Number = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """A message: frozen, closed, serialised by alias. Its validator is built at first use."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        serialize_by_alias=True,
        defer_build=True,
    )

    def encode(self) -> bytes:
        """Return compact JSON without the fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()


class ObjectRef(Message):
    """An object in the store, by name and by content. `size` is in bytes."""

    bucket: Literal["duramen", "work"]
    key: str
    sha256: Sha256
    size: int = Field(ge=0)
