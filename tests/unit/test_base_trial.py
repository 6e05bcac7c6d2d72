"""What `lineage new` prints of a base that was tried out, or was not."""

from typing import Any

import pytest

from services.ctl import cli
from services.ctl.errors import ServiceUnavailable
from services.ctl.settings import CtlSettings
from services.ctl.views import base_trial
from shared.answers.trainer import BaseTried
from shared.errors import UsageError
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
