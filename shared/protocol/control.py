"""The commands on stream CTL: what a service shall be, and what it shall do once."""

from typing import Literal

from shared.protocol.names import DesiredState, LineageName, SegmentId, Sha256
from shared.protocol.records import Record
from shared.service_names import Service


class Desired(Record):
    """The state that a service shall have; the record's sequence is the generation."""

    service: Service
    state: DesiredState
    discard: SegmentId | None = None
    reason: str = ""


class Once(Record):
    """A one-time command, named by its nonce; it is meant for one segment, and no later one."""

    service: Service
    command: Literal["skip", "snapshot", "checkpoint", "rollback", "base"]
    lineage: LineageName | None = None
    segment: SegmentId | None = None
    keep: bool = False
    force: bool = False
    version: int | None = None
    base_root: Sha256 | None = None
