"""A support bundle holds what helps, and neither a secret nor a row, wherever they were planted."""

import json
import tarfile
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.ctl.commands.installation import support
from services.ctl.scrubbing import Scrub
from services.ctl.settings import CtlSettings

SEED, TOKEN = "SUAPLANTEDSEEDOFATEST234567", "planted-token-of-a-test"
NOTIFY = "mailto://someone:plantedpassword@example.org"
ROW = "Zebrafish Quetzalcoatl whispers Ångström"
AWAY = "http://127.0.0.1:9"
PLANTED = (SEED, TOKEN, "plantedpassword", *ROW.split(), "Tagebuch", "quux.jsonl", "9f" * 20)


def installation(folder: Path) -> CtlSettings:
    """An embedded run whose servers are gone, with secrets and rows planted in its logs."""
    (folder / "secrets" / "nats").mkdir(parents=True)
    seed = folder / "secrets" / "nats" / "ctl.seed"
    seed.write_text(f"{SEED}\n")
    logs = folder / "logs"
    logs.mkdir()
    event = {
        "event": "job_failed",
        "level": "error",
        "error": f"the template says: {ROW}",
        "file": "Tagebuch/quux.jsonl",
        "job": "00f5e1bb4e43.1",
        "said": f"token {TOKEN}, seed {SEED}",
        "hash": "9f" * 20,
        ROW: 3,
        "steps": [1, {"row": ROW}],
    }
    lines = [json.dumps(event), json.dumps(ROW), ROW, f"ValueError: could not read '{ROW}'"]
    lines += [f"Traceback: {ROW.upper()} {NOTIFY}", f'"{ROW}', "\x1b[31m" + ROW, "{" + ROW]
    (logs / "trainer.log").write_text("\n".join(lines) + "\n")
    return CtlSettings(
        nats_url=f"nats://someone:plantedpassword@127.0.0.1:{9}",
        nats_seed_file=seed,
        store_url=AWAY,
        store_access_key=SecretStr(TOKEN),
        store_secret_key=SecretStr(TOKEN),
        backup_url=AWAY,
        backup_access_key=SecretStr(TOKEN),
        backup_secret_key=SecretStr(TOKEN),
        logs_dir=logs,
        ingest_url=AWAY,
        trainer_url=AWAY,
        vault_url=AWAY,
        evolution_url=AWAY,
    )


def test_nothing_that_was_planted_is_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DURAMEN_NOTIFY_URLS", NOTIFY)
    monkeypatch.setattr(support, "COMMANDS_ASKED", {})  # each is a process of its own
    config = installation(tmp_path)
    files = dict(support.collected(config, Scrub(support.secrets_known(config))))
    target = tmp_path / "bundle.tar.gz"
    support.write_bundle(target, "duramen-support", files)
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as bundle:
        read = {m.name: bundle.extractfile(m) for m in bundle.getmembers()}
        texts = {name: file.read().decode() for name, file in read.items() if file is not None}
    assert {"README.txt", "settings.json", "streams.json", "versions.json"} < {
        name.removeprefix("duramen-support/") for name in texts
    }
    for name, text in texts.items():
        for planted in PLANTED:
            assert planted.lower() not in text.lower(), (name, planted)
    log = texts["duramen-support/logs/trainer.log"]
    assert json.loads(log.splitlines()[0])["job"] == "00f5e1bb4e43.1"
    assert "job_failed" in log
    assert "ValueError: could not read" in log
    settings = json.loads(texts["duramen-support/settings.json"])
    assert len(settings["errors"]) == 4
    assert "(secret)" in str(settings["programs"]["duramen"])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("the store does not answer", "the store does not answer"),
        ("v007 is in 2 of 3 places since 2026-05-04T11:20:00Z", None),
        ("job 00f5e1bb4e43.1 failed at step 508/4560", None),
        ("54 GiB free at 127.0.0.1:4230", None),
        ("sha256 " + "ab" * 32, "sha256 abababababab"),
        (f"a {ROW} b", "a … b"),
        ("it says 'anything at all' here", "it says … here"),
        (f"key={TOKEN}", "key=(secret)"),
        ("inbox/done/small.jsonl is queued", "inbox/done/… is queued"),
        ("services/vault/vault.py in shared.bus", None),
        ("\\u005a\\u0065bra", "…"),
    ],
)
def test_words_of_the_program_are_kept_and_others_become_dots(text: str, kept: str | None) -> None:
    said = Scrub([TOKEN, "short"]).text(text)
    assert " ".join(said.split()) == (text if kept is None else kept)
