"""A reader that hashes bytes as they pass."""

import hashlib
import io
from typing import Any, BinaryIO

from shared.errors import Location, ObjectDamaged
from shared.progress import beat

NOWHERE = Location("", "", "")


class HashingReader(io.RawIOBase):
    """Passes bytes through and hashes them; `size` and `hexdigest` are of what has passed.

    If it knows what to expect, it raises ObjectDamaged instead of giving the last of the wrong
    bytes: the upload is then given up, and wrong bytes never get the name.
    """

    def __init__(
        self,
        source: BinaryIO | Any,
        expected: tuple[int, str] | None = None,
        where: Location = NOWHERE,
    ) -> None:
        self._source, self._digest, self.size = source, hashlib.sha256(), 0
        self._expected, self._where = expected, where

    def read(self, size: int = -1, /) -> bytes:
        block: bytes = self._source.read(size) if size >= 0 else self._source.read()
        self._digest.update(block)
        beat()
        self.size += len(block)
        if self._expected is not None and block:
            self._check(*self._expected)
        return block

    def _check(self, size: int, sha256: str) -> None:
        if self.size >= size and self.hexdigest() != sha256:
            raise ObjectDamaged(self._where, sha256, self.hexdigest(), as_sent=True)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
