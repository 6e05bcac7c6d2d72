"""OpenAPI says of every answer what comes back: no 200 answer is an object without a shape."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from services.evolution import api as evolution
from services.evolution.cache import Cache
from services.evolution.settings import EvolutionSettings
from services.evolution.snapshot_reader import Reader
from services.evolution.watch import SnapshotWatch
from services.herald import api as herald
from services.herald.settings import HeraldSettings
from services.ingest import api as ingest
from services.ingest.inbox.inbox import Inbox
from services.ingest.intake import Intake
from services.ingest.settings import IngestSettings
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import api as trainer
from services.trainer.supervisor.held import HeldSegment
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.own_lease import OwnLease
from services.trainer.supervisor.trainer import Trainer
from services.vault import __main__ as vault_program
from services.vault import api as vault
from services.vault.settings import VaultSettings
from services.vault.vault import Vault
from shared.bus.client import Bus
from shared.store.s3 import Store

AWAY = "http://127.0.0.1:9"  # nothing is asked of it


def given(folder: Path) -> dict[str, Any]:
    """Settings of any service."""
    return {
        "nats_url": "nats://127.0.0.1:9",
        "nats_seed_file": folder / "seed",
        "state_dir": folder / "state",
        "http_port": 9,
        "http_token": "a-token-of-a-test",
    }


def stored(folder: Path) -> dict[str, Any]:
    keys = {"store_access_key": "a-key-of-a-test", "store_secret_key": "a-key-of-a-test"}
    return {**given(folder), "store_url": AWAY, **keys}


def evolution_app(folder: Path) -> FastAPI:
    settings = EvolutionSettings(**stored(folder))
    store, cache = Store.of(settings), Cache(folder / "evolution.sqlite")
    return evolution.make(
        settings, SnapshotWatch(Bus.of(settings), Reader(store, cache), cache), store
    )


def herald_app(folder: Path) -> FastAPI:
    settings = HeraldSettings(
        **given(folder), nats_monitor_seed_file=folder / "monitor.seed", prometheus_url=AWAY
    )
    return herald.make(settings, Bus.of(settings), [])


def ingest_app(folder: Path) -> FastAPI:
    settings = IngestSettings(**stored(folder), inbox_dir=folder / "inbox")
    inbox = Inbox(settings.inbox_dir)
    return ingest.make(Intake(settings, Bus.of(settings), Store.of(settings), inbox, 60.0))


def trainer_app(folder: Path) -> FastAPI:
    settings = TrainerSettings(**stored(folder))
    store, bus = Store.of(settings), Bus.of(settings)
    held = HeldSegment(OwnLease(bus, "trainer.a-test", "a test", settings.lease_seconds))
    local = Local(settings.state_dir, store)
    return trainer.make(settings, Trainer(settings, bus, local, "float32", held), store)


def vault_app(folder: Path) -> FastAPI:
    key = "a-key-of-a-test"
    settings = VaultSettings(
        **stored(folder),
        backup_url=AWAY,
        backup_access_key=key,
        backup_secret_key=key,
        archive_dir=folder / "archive",
    )
    copies = vault_program.connect(settings)
    return vault.make(Vault(settings, Bus.of(settings), copies, "a test", 30.0))


APPS = [evolution_app, herald_app, ingest_app, trainer_app, vault_app]


def shapeless(schema: dict[str, Any], models: dict[str, Any], seen: set[str]) -> Iterator[str]:
    """Yield each part of a schema that does not say what it is."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name not in seen:
            seen.add(name)
            for field, part in models[name].get("properties", {"": {}}).items():
                yield from (f"{name}.{field} {what}" for what in shapeless(part, models, seen))
        return
    parts = [*schema.get("anyOf", []), *schema.get("prefixItems", [])]
    parts += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    if not parts and schema.get("type") in (None, "object", "array") and "const" not in schema:
        yield "says nothing"
    for part in parts:
        yield from shapeless(part, models, seen) if isinstance(part, dict) else ["is anything"]


@pytest.mark.parametrize("make", APPS, ids=lambda make: str(make.__name__))
def test_every_answer_has_a_shape(make: Callable[[Path], FastAPI], tmp_path: Path) -> None:
    described = make(tmp_path).openapi()
    models, wrong = described["components"]["schemas"], []
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            for kind, content in route["responses"]["200"]["content"].items():
                found = shapeless(content.get("schema", {}), models, set())
                wrong += [f"{method} {path} ({kind}): {what}" for what in found]
    assert wrong == []
