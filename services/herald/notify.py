"""Notifications by Apprise: ntfy, Discord, Slack, mail, … as DURAMEN_NOTIFY_URLS names them."""

import asyncio
import hashlib
import re

from apprise import Apprise, NotifyFormat, NotifyType

from services.herald.happenings import Happening
from services.herald.outlet import OutletAway
from shared.foreign_text import plain

TYPES = {"alarm": NotifyType.WARNING, "alert": NotifyType.FAILURE, "refused": NotifyType.WARNING}
MESSAGE_LENGTH = 2000
# A comma also stands inside an address, between the recipients of a mail: only one before a new
# address separates.
SEPARATOR = re.compile(r"\s*,\s*(?=[A-Za-z][\w+.-]*://)|\s+")


class Address:
    """An address that is notified.

    `name` is that of its marks on disk, and reveals nothing of its password.
    """

    def __init__(self, url: str, place: int) -> None:
        """Take an address as Apprise writes it; `place` is its number in the setting, from 1.

        Raises ValueError for one that Apprise does not know, which the message names by its place.
        """
        self.name = f"notify-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        self.place = place
        self._apprise = Apprise()
        if not self._apprise.add(url):
            raise ValueError(
                f"address {place} of DURAMEN_NOTIFY_URLS is not a known kind of address"
            )

    async def send(self, kind: str, text: str) -> None:
        """Send a notification. Raises OutletAway if the address did not take it."""
        took = await asyncio.to_thread(
            self._apprise.notify,
            title=f"Duramen: {kind.replace('_', ' ')}",
            body=plain(text)[:MESSAGE_LENGTH],
            body_format=NotifyFormat.TEXT,  # or a mail would be HTML, and file names its markup
            notify_type=TYPES.get(kind, NotifyType.INFO),
        )
        if not took:
            raise OutletAway(
                f"address {self.place} of DURAMEN_NOTIFY_URLS refused the notification"
            )

    async def deliver(self, happening: Happening) -> None:
        await self.send(happening.kind, happening.text)


def addresses(urls: str) -> list[Address]:
    """Return the addresses in `urls`, which spaces, commas or line breaks separate.

    Raises ValueError for a wrong one.
    """
    return [Address(url, at) for at, url in enumerate(filter(None, SEPARATOR.split(urls)), 1)]
