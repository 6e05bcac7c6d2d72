"""Notifications by Apprise: ntfy, Discord, Slack, mail, … as DURAMEN_NOTIFY_URLS names them."""

import asyncio

from apprise import Apprise, NotifyType

from services.herald.happenings import Happening
from services.herald.outlet import OutletAway

TYPES = {"alarm": NotifyType.WARNING, "alert": NotifyType.FAILURE, "refused": NotifyType.WARNING}


class Notifier:
    """Sends to all addresses. None: nothing is sent, and nothing waits."""

    def __init__(self, urls: str) -> None:
        """`urls`: separated by spaces, commas or line breaks. Raises ValueError for a wrong one.

        The wrong one is named by its place, never shown: such addresses hold passwords.
        """
        self._apprise = Apprise()
        self.addresses = urls.replace(",", " ").split()
        for place, url in enumerate(self.addresses, 1):
            if not self._apprise.add(url):
                raise ValueError(f"address {place} of DURAMEN_NOTIFY_URLS is none that is known")

    async def send(self, kind: str, text: str) -> None:
        """Raises OutletAway if one address did not take it; the others may then get it twice."""
        if not self.addresses:
            return
        took = await asyncio.to_thread(
            self._apprise.notify,
            title=f"Duramen: {kind.replace('_', ' ')}",
            body=text,
            notify_type=TYPES.get(kind, NotifyType.INFO),
        )
        if not took:
            raise OutletAway("an address of DURAMEN_NOTIFY_URLS did not take the message")

    async def deliver(self, happening: Happening) -> None:
        await self.send(happening.kind, happening.text)
