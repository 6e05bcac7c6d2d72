"""Canonical JSON, whose hash may serve as a name, and the base classes of all stored formats."""

import json
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


def canonical_json(value: Any) -> bytes:
    """Return the one byte string for a value: sorted keys, no white space, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


class Part(BaseModel):
    """A part of a stored file: frozen, and without fields that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CanonicalFile(Part):
    """A file of canonical JSON, whose SHA-256 may be its name.

    `LATER` names the fields that were added later: a file leaves them out while they hold their
    defaults, so that what was written before them keeps its name.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    LATER: ClassVar[frozenset[str]] = frozenset()

    schema_: Literal[1] = Field(default=1, alias="schema")

    def to_bytes(self) -> bytes:
        """Return the bytes of the file; equal fields give equal bytes."""
        later = type(self).model_fields.items()
        unset = {n for n, f in later if n in self.LATER and getattr(self, n) == f.default}
        return canonical_json(self.model_dump(mode="json", exclude=unset))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a file. Raises ValueError, also for a schema that this program does not know."""
        try:
            fields = json.loads(data)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(fields, dict):
            raise ValueError("it is not a JSON object")
        if fields.get("schema") != 1:
            raise ValueError(f"it has schema {fields.get('schema')}, this program reads 1")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}") from error
