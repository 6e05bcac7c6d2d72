"""`duramen settings`: what holds, where it comes from, and never a secret."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.compose.host import Host
from infra.local import environment
from services.ctl.commands.installation.settings import setting_rows
from services.herald.settings import HeraldSettings
from services.ingest.outcome.job_settings import SettingsRefused, read_settings
from services.trainer.settings import TrainerSettings
from shared.service.held_settings import held, shown_setting
from shared.setting_names import origins

SECRET = "s3cret-of-a-test"


def trainer(folder: Path) -> TrainerSettings:
    return TrainerSettings(
        nats_url=f"nats://user:{SECRET}@127.0.0.1:9",
        nats_seed_file=folder / "seed",
        state_dir=folder,
        http_port=9,
        http_token=SecretStr(SECRET),
        store_url="http://127.0.0.1:9",
        store_access_key=SecretStr(SECRET),
        store_secret_key=SecretStr(SECRET),
        batch_tokens=512,
        learning_rate=1e-3,
    )


def test_each_setting_is_shown_with_its_origin_and_default_and_no_secret(tmp_path: Path) -> None:
    stands = {"DURAMEN_BATCH_TOKENS": ".env", "DURAMEN_LEARNING_RATE_FILE": "environment"}
    rows = {row["name"]: row for row in setting_rows(held(trainer(tmp_path)), stands)}
    assert SECRET not in str(rows)
    assert rows["DURAMEN_BATCH_TOKENS"] == {
        "name": "DURAMEN_BATCH_TOKENS",
        "value": "512",
        "from": ".env",
        "default": "2048",
        "secret": False,
    }
    assert rows["DURAMEN_LEARNING_RATE"]["from"] == "environment"
    assert rows["DURAMEN_HTTP_TOKEN"] == {
        "name": "DURAMEN_HTTP_TOKEN",
        "value": "(secret)",
        "from": "installation",
        "default": None,
        "secret": True,
    }
    assert rows["DURAMEN_MAX_LENGTH"]["from"] == "default"
    assert rows["DURAMEN_NATS_URL"]["value"] == "nats://…@127.0.0.1:9"
    assert set(rows) == {f"DURAMEN_{name.upper()}" for name in TrainerSettings.model_fields}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (SecretStr(""), "–"),
        (None, "–"),
        (2e-4, "0.0002"),
        (True, "True"),
        ({"store": f"http://a:{SECRET}@store:9000/x"}, "{'store': 'http://…@store:9000/x'}"),
    ],
)
def test_a_value_is_shown_as_people_write_it(value: object, said: str) -> None:
    assert shown_setting(value) == said


def test_a_secret_with_a_default_is_a_word_too() -> None:
    assert shown_setting(HeraldSettings.model_fields["notify_urls"].default) == "–"
    assert shown_setting(SecretStr(f"mailto://user:{SECRET}@example.org")) == "(secret)"


def test_both_installations_say_where_a_setting_of_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert origins(
        {"DURAMEN_BATCH_TOKENS": "1", "PATH": "", "DURAMEN_MAX_LENGTH": "2"}, {"DURAMEN_MAX_LENGTH"}
    ) == ("DURAMEN_BATCH_TOKENS=.env DURAMEN_MAX_LENGTH=environment")
    assert Host.load({"DURAMEN_TORCH": "cpu"}).origins.split()[-1:] == ["DURAMEN_TORCH=environment"]
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / ".env").write_text("DURAMEN_BATCH_TOKENS=512\nDURAMEN_STORE_URL=http://x\n")
    monkeypatch.setenv("DURAMEN_INBOX_DIR", "/elsewhere")
    found = environment.origins_of_chosen().split()
    assert {"DURAMEN_BATCH_TOKENS=.env", "DURAMEN_INBOX_DIR=environment"} <= set(found)
    assert not any(word.startswith("DURAMEN_STORE_URL=") for word in found)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("epoch", "epochs"), ("lerning_rate", "learning_rate"), ("agian", "again")],
)
def test_an_unknown_setting_of_a_job_is_answered_with_the_one_that_is_meant(
    name: str, meant: str
) -> None:
    with pytest.raises(SettingsRefused, match=rf"not a known setting\. Did you mean `{meant}`\?"):
        read_settings({name: 1})
