"""What is closed to strangers, and what a child that reads their files does not know."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.local.home import Home
from services.ingest.outcome.job_settings import SettingsRefused, read_settings
from services.ingest.reading.parser import Parser
from services.model.template import Chat
from services.model.template_sandbox import Renderer
from services.trainer.protocol import Spec
from services.trainer.settings import OF_A_JOB, TrainerSettings
from services.trainer.supervisor.run import worker_process
from services.trainer.supervisor.trainer import Trainer
from services.trainer.worker.data.plan import build_plan
from shared.child import Child
from shared.errors import CannotTrain
from shared.protocol.largest import LARGEST, why_too_many
from shared.protocol.records import JobSettings
from tests.worker import Job

# name as written, the largest value that is taken, a larger one
TOO_LARGE = [
    ("epochs", 1000, 999999999999),
    ("num_train_epochs", 1000, 1001),
    ("max_length", 1 << 20, 1 << 21),
    ("batch_tokens", 1 << 24, 10**12),
    ("warmup_steps", 10**7, 10**9),
    ("lr", 100, "1e30"),
    ("weight_decay", 100, 101),
    ("max_grad_norm", 10**6, 1e7),
    ("neftune_alpha", 10_000, 1e5),
]
SECRETS = (
    "DURAMEN_HTTP_TOKEN",
    "DURAMEN_STORE_SECRET_KEY",
    "HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "OPENAI_API_KEY",
)
ENVIRONMENTS: dict[str, Callable[[], dict[str, str]]] = {
    "parser": lambda: Parser().child.environment,
    "template": lambda: Renderer().child.environment,
    "any child": lambda: Child("x").environment,
    "worker": lambda: worker_process.environment(None),
}


@pytest.mark.parametrize("child", ENVIRONMENTS)
def test_a_child_knows_no_secret(child: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    found = ENVIRONMENTS[child]()
    assert "s3cret" not in found.values()
    assert found["LANG"] == "C.UTF-8"


def test_an_embedded_home_is_closed_to_others_and_an_open_one_is_closed_once(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    Home.make(tmp_path / "new", said.append)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert said == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o755)
    for _ in range(2):
        Home.make(tmp_path / "old", said.append)
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o700
    (line,) = said
    assert str(tmp_path / "old") in line


@pytest.mark.parametrize(("name", "largest", "more"), TOO_LARGE)
def test_settings_of_a_job_have_an_upper_bound(name: str, largest: float, more: Any) -> None:
    read_settings({name: largest})
    with pytest.raises(SettingsRefused, match=f"`{name}` cannot be .*: it must be at most "):
        read_settings({name: more})


def test_what_the_trainer_takes_as_a_default_has_the_same_bounds(trainer: Trainer) -> None:
    kept = trainer.settings.model_dump()
    for name, stored in OF_A_JOB.items():
        if stored in LARGEST:
            with pytest.raises(ValidationError, match="less than or equal"):
                TrainerSettings.model_validate({**kept, name: 10**9})


def test_records_of_before_stay_readable() -> None:
    assert JobSettings(epochs=999999999999).epochs == 999999999999


def test_a_plan_that_would_eat_memory_is_refused_before_it_is_made(job: Job) -> None:
    spec = Spec.model_validate(job.spec("x"))
    endless = spec.settings.model_copy(update={"epochs": 999999999999})
    spec = spec.model_copy(update={"settings": endless})
    chat = Chat(spec.base_dir, spec.clock, spec.chat_template)
    with pytest.raises(CannotTrain, match="places in the plan, and it may have 20,000,000"):
        build_plan(spec, chat)
    assert why_too_many(10_000_000, 2) is None
