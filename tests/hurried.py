"""A service as it runs in earnest, but with shorter periods: its `main` takes them as arguments.

python -m tests.hurried vault '{"sweep_seconds": 1}'
"""

import asyncio
import json
import sys
from importlib import import_module

from services.ingest.settings import IngestSettings
from services.vault.settings import VaultSettings
from shared.service.start import load_settings
from shared.settings import StoreSettings

SETTINGS: dict[str, type[StoreSettings]] = {"ingest": IngestSettings, "vault": VaultSettings}


def module(service: str, periods: dict[str, float]) -> list[str]:
    """Return the module and its arguments that start `service` with these periods."""
    return ["tests.hurried", service, json.dumps(periods)]


if __name__ == "__main__":
    name, told = sys.argv[1:]
    loaded = load_settings(SETTINGS[name])
    main = import_module(f"services.{name}.__main__").main
    asyncio.run(main(loaded, **json.loads(told)))
