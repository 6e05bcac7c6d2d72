"""One message of a stream, as a consumer delivers it."""

from datetime import UTC, datetime
from typing import NamedTuple

from shared.bus.connection import Raw
from shared.foreign.json_bytes import json_object, whole_number

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MIRRORED = frozenset({"Nats-Stream-Source", "Nats-Stream"})


class Entry(NamedTuple):
    """One message of a stream as it is stored; `stored`: when, if known, by the server's clock."""

    stream: str
    sequence: int
    subject: str
    data: bytes
    headers: dict[str, str]
    stored: datetime | None = None

    @property
    def expected(self) -> int | None:
        """The sequence that its publisher expected to be last, or None if it named none."""
        return whole_number(self.headers.get(EXPECTED, ""))

    @property
    def copied(self) -> bool:
        """Return whether it is a mirrored or sourced message, or a reply of the server."""
        return not MIRRORED.isdisjoint(self.headers)

    @property
    def nonce(self) -> str | None:
        """The nonce that it names, or None if it names none or cannot be read."""
        try:
            nonce = json_object(self.data).get("nonce")
        except ValueError:
            return None
        return nonce if isinstance(nonce, str) else None


def entry_of(stream: str, message: Raw) -> Entry:
    """Return the entry in a message that a consumer delivered.

    Its sequence and time are parts of the reply subject,
    `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<nanoseconds>.…`; in
    version 2 two more tokens come before them.
    """
    tokens = message.reply.split(".")
    at = 5 if len(tokens) < 11 else 7
    stored = datetime.fromtimestamp(int(tokens[at + 2]) / 1e9, UTC)
    headers = message.parsed_headers()
    return Entry(stream, int(tokens[at]), message.subject, message.data, headers, stored)
