"""Prometheus' alerts as notifications: sent when they fire and when they are over."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from services.herald.notify import Address
from services.herald.outlet import LONGEST_SECONDS, OutletAway
from shared import log, reach
from shared.backoff import Backoff
from shared.files import write_synced
from shared.foreign.state_file import kept_object

ALERT_SECONDS = 5.0
# How long an alert is absent before it is over: a restarted Prometheus knows of none at first.
OVER_SECONDS = 180.0


class Alerts:
    """The alerts of Prometheus, asked for once and sent to each address separately.

    An address that is away delays no other.
    """

    def __init__(
        self,
        url: str,
        addresses: Sequence[Address],
        folder: Path,
        over_seconds: float = OVER_SECONDS,
    ) -> None:
        self._url = url
        self._told = [Standing(address, folder, over_seconds) for address in addresses]

    async def once(self) -> None:
        """Ask Prometheus and send what has changed; an address that is away is tried again."""
        try:
            alerts = await self.alerts()
        except httpx.HTTPError as error:
            log.get().warning("alerts_not_asked", error=str(error) or type(error).__name__)
            return
        for told in self._told:
            await told.once(alerts["firing"], alerts["pending"])

    async def alerts(self) -> dict[str, dict[str, str]]:
        """Return, by state, the text of each alert by its labels. Raises httpx.HTTPError."""
        async with reach.http_async(timeout=ALERT_SECONDS) as http:
            reply = (await http.get(f"{self._url}/api/v1/alerts")).raise_for_status().json()
        found: list[dict[str, Any]] = reply["data"]["alerts"]
        states: dict[str, dict[str, str]] = {"firing": {}, "pending": {}}
        for alert in found:
            name = json.dumps(alert["labels"], sort_keys=True)
            states[alert["state"]][name] = alert["annotations"]["summary"]
        return states


class Standing:
    """The alerts that one address was notified of and that are not over.

    `standing` holds their texts by name and is kept on disk. `gone` says since when an alert has
    been absent, in monotonic seconds.
    """

    def __init__(self, address: Address, folder: Path, over_seconds: float) -> None:
        self._address, self._over_seconds = address, over_seconds
        self._delay = Backoff(1.0, LONGEST_SECONDS)
        self.gone: dict[str, float] = {}
        self._path = folder / f"{address.name}.alerts"
        self.standing = {name: str(text) for name, text in kept_object(self._path).items()}

    async def once(self, firing: dict[str, str], pending: dict[str, str]) -> None:
        """Send what has begun or ended, unless an earlier failure asks for a longer wait.

        An alert that is pending again has not been over: Prometheus starts its count again after a
        restart.
        """
        now = time.monotonic()
        absent = self.standing.keys() - firing.keys() - pending.keys()
        self.gone = {name: self.gone.get(name, now) for name in absent}
        if not self._delay.is_over:
            return
        try:
            for name, text in firing.items():
                if name not in self.standing:
                    await self._address.send("alert", text)
                    self.standing[name] = text
                    self._keep()
            for name in sorted(absent):
                if now - self.gone[name] < self._over_seconds:
                    continue
                await self._address.send("alert_over", self.standing[name])
                del self.standing[name]
                self._keep()
        except OutletAway as error:
            self._delay.grow()
            log.get().warning("alerts_not_told", outlet=self._address.name, error=str(error))
        else:
            self._delay.end()

    def _keep(self) -> None:
        write_synced(self._path, json.dumps(self.standing).encode())
