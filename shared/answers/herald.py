"""The answers of the herald."""

from shared.answers import Reply


class Sent(Reply):
    """The number of addresses that a test message was sent to."""

    addresses: int
