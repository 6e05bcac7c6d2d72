"""The one way in which JSON that is hashed into a name is written."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no white space, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
