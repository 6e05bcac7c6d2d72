"""What `lineage new` prints of a base that was tried out, or was not."""

from pathlib import Path
from typing import Any

import pytest

from services.ctl import cli
from services.ctl.commands import lineages
from services.ctl.errors import ServiceUnavailable
from services.ctl.settings import CtlSettings
from services.ctl.views import base_trial
from services.ctl.views.shown_lineage import lines_of_lineage
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.on_request import base_trial as on_request
from shared.answers.trainer import BaseTried
from shared.errors import UsageError
from shared.formats.adapter import AdapterShape
from shared.ledger.jobs import Table
from shared.protocol.records import LineageSettings, Lora

SETTINGS = LineageSettings(base_root="ab" * 32, lora=Lora(targets=["q_proj"]), quantize="nf4")
FOUND = {
    "what": "the base itself",
    "seconds": 7.8,
    "adapted": ["in_proj"],
    "losses": [7.2, 6.6],
    "notes": ["slower"],
    "left_out": [{"names": ["out_proj"], "why": "peft refuses it"}],
}


class Config:
    trainer_url, trainer_token = "http://127.0.0.1:9", None


def asked(monkeypatch: pytest.MonkeyPatch, answer: Any) -> BaseTried | str:
    """What is made of a trainer's answer."""
    paths = []

    def ask(*given: Any, **_: Any) -> BaseTried:
        paths.append(given[3])
        if isinstance(answer, Exception):
            raise answer
        return BaseTried.model_validate(answer)

    monkeypatch.setattr(cli, "ask", ask)
    config: CtlSettings = Config()  # type: ignore[assignment]
    found = base_trial.try_base(config, SETTINGS)
    assert "%22targets%22%3A%5B%22q_proj%22%5D" in paths[0]
    return found


def test_what_was_found_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, FOUND)
    told = "\n".join(base_trial.trial_lines(found, SETTINGS))
    assert "the base itself. Its loss on a made-up text went from 7.20 to 6.60" in told
    assert "Without an adapter: out_proj (peft refuses it)." in told
    assert "not in nf4" in told
    assert base_trial.as_json(found)["tried"] is True


def test_a_trainer_that_is_away_leaves_it_to_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, ServiceUnavailable("It does not answer."))
    (told,) = base_trial.trial_lines(found, SETTINGS)
    assert told.startswith("The base was not tried out: It does not answer; the first job checks")
    assert base_trial.as_json(found)["tried"] is False


def test_a_doubt_about_a_smaller_network_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, {"what": "a smaller network", "seconds": 9.0, "doubt": "No."})
    (told,) = base_trial.trial_lines(found, SETTINGS)
    assert "a smaller network fails: No." in told
    assert base_trial.as_json(found)["tried"] is False


def test_a_base_that_cannot_be_trained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "norm is not a matrix. Type: duramen lineage new NAME --base BASE --targets q_proj"
    with pytest.raises(UsageError, match="norm is not a matrix") as caught:
        asked(monkeypatch, {"failed": {"kind": "base", "message": message}})
    assert caught.value.next_step == "duramen lineage new NAME --base BASE --targets q_proj"


# ---- what was found before -----------------------------------------------------------------------


def test_what_a_trial_found_is_kept_for_each_base_and_shape(tmp_path: Path) -> None:
    local = Local(tmp_path, store=None)  # type: ignore[arg-type]
    root, shape = "ab" * 32, AdapterShape()
    assert on_request.earlier_trial(local, root, shape).what is None
    kept = on_request.kept_trial(local, root, shape)
    kept.parent.mkdir(parents=True)
    for damaged in (b"", b"[]", b"{", b'{"what": 1}'):
        kept.write_bytes(damaged)
        assert on_request.earlier_trial(local, root, shape).what is None
    kept.write_bytes(BaseTried.model_validate(FOUND).model_dump_json(exclude_unset=True).encode())
    assert on_request.earlier_trial(local, root, shape).adapted == ("in_proj",)
    assert on_request.earlier_trial(local, root, AdapterShape(rank=3)).what is None


def test_a_lineage_is_shown_with_what_the_trial_found() -> None:
    row = {
        **SETTINGS.model_dump(mode="json"),
        "lineage": "main",
        "model": "llama",
        "global_step": 7,
        "checkpoint": "c" * 64,
        "latest": 2,
        "versions": [1, 2],
        "trains": None,
        "chat_template": "x" * 1234,
        "left_out": [{"names": ["out_proj"], "why": "peft refuses it"}],
    }
    found = BaseTried.model_validate(FOUND)
    trial = base_trial.trial_lines(found, SETTINGS)
    told = "\n".join(lines_of_lineage(row, trial))
    assert "on q_proj" in told
    assert "the base as nf4" in told
    assert "1,234 characters" in told
    assert "step 7, checkpoint cccccccccccc" in told
    assert "2, latest v002 (v001, v002)" in told
    assert told.count("Without an adapter") == 1
    failed = BaseTried.model_validate({"failed": {"kind": "base", "message": "It reads ahead."}})
    trial = base_trial.trial_lines(failed, SETTINGS)
    told = "\n".join(lines_of_lineage({**row, "versions": [], "latest": None}, trial))
    assert "0, latest none" in told
    assert "It reads ahead." in told
    assert told.count("Without an adapter") == 1


async def test_main_is_not_made_on_a_base_that_cannot_be_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    async def table_of(_: object) -> Table:
        return Table()

    async def create(_bus: object, _table: Table, name: str, _settings: LineageSettings) -> None:
        made.append(name)

    monkeypatch.setattr(Table, "of", table_of)
    monkeypatch.setattr(lineages, "create", create)
    answer: BaseTried = BaseTried.model_validate(FOUND)

    def ask(*_: Any, **__: Any) -> BaseTried:
        return answer

    monkeypatch.setattr(cli, "ask", ask)
    config: Any = Config()
    first = await lineages.make_first_lineage(config, None, "ab" * 32, check=True)  # type: ignore[arg-type]
    assert first is not None
    assert first[2] == answer
    answer = BaseTried.model_validate(
        {"failed": {"kind": "base", "message": "It reads ahead. Type: duramen base add DIR"}}
    )
    with pytest.raises(
        UsageError, match=r"is stored, but the lineage main .* It reads ahead"
    ) as no:
        await lineages.make_first_lineage(config, None, "ab" * 32, check=True)  # type: ignore[arg-type]
    assert no.value.next_step == "duramen base add DIR"
    assert made == ["main"]
