"""Prometheus' alerts as notifications: told when they fire and when they are over."""

import json
from pathlib import Path
from typing import Any

import httpx

from services.herald.notify import Notifier
from services.herald.outlet import OutletAway
from shared import log

SECONDS = 5.0


class Alerts:
    """`standing`: name and text of what was told and is not over, kept on disk."""

    def __init__(self, url: str, notifier: Notifier, folder: Path) -> None:
        self._url, self._notifier = url, notifier
        self._path = folder / "alerts.json"
        self.standing: dict[str, str] = (
            json.loads(self._path.read_text()) if self._path.exists() else {}
        )

    async def once(self) -> None:
        """Ask, and tell what has changed; whoever is away is asked again at the next round."""
        try:
            firing = await self.firing()
            for name, text in firing.items():
                if name not in self.standing:
                    await self._notifier.send("alert", text)
                    self.standing[name] = text
                    self._keep()
            for name in sorted(self.standing.keys() - firing.keys()):
                await self._notifier.send("alert_over", self.standing[name])
                del self.standing[name]
                self._keep()
        except (OutletAway, httpx.HTTPError) as error:
            log.get().warning("alerts_not_told", error=str(error) or type(error).__name__)

    async def firing(self) -> dict[str, str]:
        """Text by name and labels of all alerts that fire. Raises httpx.HTTPError."""
        async with httpx.AsyncClient(timeout=SECONDS) as http:
            reply = (await http.get(f"{self._url}/api/v1/alerts")).raise_for_status().json()
        found: list[dict[str, Any]] = reply["data"]["alerts"]
        return {
            json.dumps(alert["labels"], sort_keys=True): alert["annotations"]["summary"]
            for alert in found
            if alert["state"] == "firing"
        }

    def _keep(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.standing))
        temporary.replace(self._path)
