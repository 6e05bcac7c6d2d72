"""What is closed to strangers, and what a child that reads their files does not know."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local.home import Home
from services.ingest.reading.parser import Parser
from services.model.template_sandbox import Renderer
from services.trainer.supervisor.run import worker_process
from shared.child import Child

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
