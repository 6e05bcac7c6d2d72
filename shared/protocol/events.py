"""Events: what happened, told to whoever listens."""

from typing import Any, Literal

from pydantic import AwareDatetime, Field

from shared.protocol.message import Message, ObjectRef
from shared.protocol.names import Service, new_nonce, now


class Event(Message):
    """Something that happened. `kind` is the last token of the subject; `data` is small JSON.

    Kinds: ingest `stored`, `queued`, `refused`, `duplicate`; trainer `opened`, `closed`,
    `snapshot`, `out_of_memory`; vault `base_stored`, `version_published`, `rolled_back`; everyone
    `answered` (command, sequence, outcome `done` or `void`, why) and `alarm` (what, detail).
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    service: Service
    kind: str
    lineage: str | None = None
    job: str | None = None
    ref: ObjectRef | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    nonce: str = Field(default_factory=new_nonce)
    at: AwareDatetime = Field(default_factory=now)
