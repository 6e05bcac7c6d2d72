"""What the herald answers."""

from shared.answers import Reply


class Sent(Reply):
    """To how many addresses a test message was sent."""

    addresses: int
