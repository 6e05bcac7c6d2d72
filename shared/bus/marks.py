"""The records that the bus acknowledged to a client, kept on disk.

By them a client notices that the bus has gone back in time.
"""

import json
from pathlib import Path

from shared import log
from shared.files import write_synced
from shared.foreign.json_bytes import json_object
from shared.foreign.state_file import kept_as


class Marks:
    """The highest (sequence, nonce) acknowledged to this client, for each stream, kept on disk."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.marks: dict[str, tuple[int, str]] = kept_as(path, marks_in, {})

    def note(self, stream: str, sequence: int, nonce: str) -> None:
        if sequence <= self.marks.get(stream, (0, ""))[0]:
            return
        self.marks[stream] = (sequence, nonce)
        self._keep()

    def forget(self, stream: str) -> None:
        """Forget a record that a recovery could not bring back, and said so."""
        self.marks.pop(stream, None)
        self._keep()

    def _keep(self) -> None:
        if self.path is not None:
            try:
                write_synced(self.path, json.dumps(self.marks).encode())
            except OSError as error:  # the disk is full: the earlier mark still guards a restart
                log.get().error("marks_not_kept", path=str(self.path), error=str(error))


def marks_in(data: bytes) -> dict[str, tuple[int, str]]:
    """Return the marks that a file holds, by stream. Raises ValueError, TypeError."""
    marks = {}
    for stream, (sequence, nonce) in json_object(data).items():
        if type(sequence) is not int or not isinstance(nonce, str):
            raise ValueError(f"its mark of {stream} is not a sequence and a nonce")
        marks[stream] = sequence, nonce
    return marks
