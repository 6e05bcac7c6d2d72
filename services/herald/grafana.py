"""Annotations in Grafana; each carries a tag that names it.

The tag is looked for before an annotation is sent, because the answer to an earlier attempt may
have been lost.
"""

import asyncio
import html
from urllib.parse import urlparse

from grafana_client import GrafanaApi
from grafana_client.client import GrafanaException
from requests.exceptions import RequestException

from services.herald.happenings import Happening
from services.herald.outlet import OutletAway
from shared.foreign_text import plain

USER = "duramen"
OWN_TAG = "duramen"


class Grafana:
    """A client of Grafana's HTTP API that posts happenings as annotations."""

    def __init__(self, url: str, password: str) -> None:
        found = urlparse(url)
        self._api = GrafanaApi(
            auth=(USER, password),
            host=found.hostname,
            port=found.port,
            url_path_prefix=found.path.strip("/"),
            protocol=found.scheme,
        )
        self._api.client.s.trust_env = False  # ours, never behind a proxy (shared/reach.py)

    async def deliver(self, happening: Happening) -> None:
        """Post a happening, unless it is already there. Raises OutletAway."""
        try:
            await asyncio.to_thread(self._post, happening)
        except (GrafanaException, RequestException, OSError) as error:
            raise OutletAway(f"Grafana: {error}") from error

    def _post(self, happening: Happening) -> None:
        if self._api.annotations.get_annotation(tags=[happening.tag], limit=1):
            return  # an earlier attempt whose answer was lost
        self._api.annotations.add_annotation(
            time_from=int(happening.at.timestamp() * 1000),
            tags=[OWN_TAG, happening.kind, happening.tag],
            text=html.escape(plain(happening.text), quote=False),  # it is shown as HTML
        )
