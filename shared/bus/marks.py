"""The records that the bus acknowledged to a client, kept on disk.

By them a client notices that the bus has gone back in time.
"""

import json
from pathlib import Path

from shared import log
from shared.files import write_synced


class Marks:
    """The highest (sequence, nonce) acknowledged to this client, for each stream, kept on disk."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.marks: dict[str, tuple[int, str]] = {}
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            self.marks = {k: (int(v[0]), str(v[1])) for k, v in found.items()}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            aside = path.with_name(f"{path.name}.damaged")
            log.get().error("marks_damaged", path=str(path), aside=str(aside), error=str(error))
            path.replace(aside)  # until marks are noted again, nothing is compared with the bus

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
