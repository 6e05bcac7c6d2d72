"""Fixtures of the tests that run without servers."""

from pathlib import Path

import pytest

from infra.local.environment import settings_for
from infra.local.home import Home
from infra.local.ports import free_ports
from infra.secrets.secrets import Secrets
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import own_lease
from services.trainer.supervisor.held import HeldSegment
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.trainer import Trainer
from shared.bus.client import Bus
from shared.foreign import state_file
from shared.ledger.lineage import Segment
from shared.protocol.names import JobId
from shared.store.s3 import Store
from tests.tiny import shared_tiny
from tests.unit.test_preparing import opened
from tests.worker import Job


@pytest.fixture(autouse=True)
def nothing_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost in one test is none of the others' business: it becomes alarms."""
    monkeypatch.setattr(state_file, "lost", {})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, shared_tiny())


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """Return a trainer as it is before it connects; nothing listens at its addresses."""
    home = Home.make(tmp_path / "home")
    values = settings_for("trainer", home, free_ports(), Secrets.ensure(home.secrets))
    named = {name.removeprefix("DURAMEN_").lower(): value for name, value in values.items()}
    settings = TrainerSettings.load(**named)
    bus = Bus.of(settings)
    lease = own_lease.OwnLease(bus, "trainer.here", "trainer@test#1", settings.lease_seconds)
    local = Local(settings.state_dir, Store.of(settings))
    return Trainer(settings, bus, local, "float32", HeldSegment(lease))


@pytest.fixture
def segment(trainer: Trainer) -> Segment:
    """Return an open segment of the first job of `main`, claimed by that trainer."""
    job = JobId("main", "cd" * 32, 1)
    record = opened(job, "ab" * 6).model_copy(update={"lease": trainer.held.lease.name})
    return Segment("ab" * 6, job, 0, [(7, record)])
