"""Names of settings: which there are, and what is said to one that nothing reads."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from infra.compose.host import Host
from infra.compose.preflight import look_settings
from infra.local import environment, lifecycle, settings_page
from infra.ports import OFFSETS
from infra.servers.bootstrap import BootstrapSettings
from services.ctl.settings import CtlSettings
from services.evolution.settings import EvolutionSettings
from services.herald.settings import HeraldSettings
from services.ingest.settings import IngestSettings
from services.trainer.settings import OF_A_JOB, TrainerSettings
from services.vault.settings import VaultSettings
from shared import setting_names
from shared.errors import UnknownSettings
from shared.formats.plan import TrainingSettings

ROOT = Path(__file__).resolve().parent.parent.parent
CLASSES: tuple[type[BaseSettings], ...] = (
    *(IngestSettings, TrainerSettings, VaultSettings, EvolutionSettings, HeraldSettings),
    *(CtlSettings, BootstrapSettings),
)
WRITTEN = re.compile(r"\bDURAMEN_[A-Z0-9_]*[A-Z0-9]\b")


def test_the_known_names_are_the_fields_of_the_settings_classes_and_no_more() -> None:
    assert {name for kind in CLASSES for name in kind.model_fields} == setting_names.OF_CLASSES
    assert set(OFFSETS) == setting_names.PORTS
    apart = (setting_names.RETIRED, setting_names.RENAMED.keys())
    assert all(setting_names.KNOWN_NAMES.isdisjoint(names) for names in apart)
    assert set(setting_names.RENAMED.values()) <= setting_names.KNOWN_NAMES


def test_what_the_installation_reads_is_named_where_it_is_read() -> None:
    files = [
        *ROOT.glob("compose*.yaml"),
        *(ROOT / "infra").rglob("*.py"),
        ROOT / "services/Dockerfile",
    ]
    files += [ROOT / "services/ctl/cli.py"]
    read = {name for file in files for name in WRITTEN.findall(file.read_text())}
    # These two are for the user's own programs: their prefix is put before them (render.py).
    read |= {"DURAMEN_READER_ACCESS_KEY", "DURAMEN_READER_SECRET_KEY"}
    for name in setting_names.INSTALLATION:
        assert f"DURAMEN_{name.upper()}" in read, name


def test_every_name_in_code_compose_and_documents_is_known() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    old = setting_names.RETIRED | setting_names.RENAMED.keys()
    for line in listed.stdout.splitlines():
        path = ROOT / line
        if path.suffix not in {".py", ".yaml", ".md", ".example"} or not path.is_file():
            continue
        for name in WRITTEN.findall(path.read_text(encoding="utf-8")):
            ignored = name in {"DURAMEN_X", "DURAMEN_X_FILE"} or name.startswith(
                setting_names.FOR_TESTS
            )
            known = name in old or setting_names.is_known(name)
            assert known or ignored or path == Path(__file__), (line, name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("DURAMEN_CLIP", "DURAMEN_CLIP is now called DURAMEN_MAX_GRAD_NORM"),
        ("DURAMEN_EPOCHS", "DURAMEN_EPOCHS is now called DURAMEN_NUM_TRAIN_EPOCHS"),
        ("DURAMEN_LERNING_RATE", "not a setting; did you mean DURAMEN_LEARNING_RATE?"),
        ("DURAMEN_PORT_STORES", "not a setting; did you mean DURAMEN_PORT_STORE?"),
    ],
)
def test_a_name_that_nothing_reads_is_refused_with_the_one_that_is_meant(
    name: str, said: str
) -> None:
    with pytest.raises(UnknownSettings, match=re.escape(said)):
        setting_names.refuse_unknown({name: "1", "DURAMEN_TORCH": "cpu"})
    found = look_settings(Host.load({"DURAMEN_TORCH": "cpu", name: "1"}))
    assert found[0] is False
    assert said in found[1]


def test_a_setting_that_became_a_constant_is_named_in_one_warning() -> None:
    told = setting_names.refuse_unknown(
        ["DURAMEN_SCAN_SECONDS", "DURAMEN_WEIGHT_DECAY", "PATH", "HF_TOKEN"]
    )
    assert told is not None
    assert told.startswith("DURAMEN_SCAN_SECONDS, DURAMEN_WEIGHT_DECAY have no effect")
    assert look_settings(Host.load({"DURAMEN_SCAN_SECONDS": "1"}))[0] is None
    known = ["DURAMEN_STORE_ACCESS_KEY_FILE", "DURAMEN_PORT_BASE", "DURAMEN_TEST_COMPOSE"]
    assert setting_names.refuse_unknown(known) is None


def test_the_embedded_run_reads_names_in_the_env_file_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / ".env").write_text("DURAMEN_MICRO_TOKENS=512\n")
    with pytest.raises(lifecycle.NotStarted, match="now called DURAMEN_MICRO_BATCH_TOKENS"):
        lifecycle.up(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    (tmp_path / ".env").write_text("DURAMEN_SWEEP_SECONDS=1\n")
    said: list[str] = []
    lifecycle.refuse_unknown_settings(said.append)
    assert "DURAMEN_SWEEP_SECONDS has no effect" in said[0]


def test_a_service_does_not_start_with_a_name_that_nothing_reads() -> None:
    variables = {"PYTHONPATH": str(ROOT), "DURAMEN_SCHEDULE": "cosine"}
    command = [sys.executable, "-m", "services.evolution"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 1
    assert "DURAMEN_SCHEDULE is now called DURAMEN_LR_SCHEDULER_TYPE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trainer_settings_reach_a_plan_by_their_stored_names() -> None:
    assert set(OF_A_JOB) <= TrainerSettings.model_fields.keys()
    defaults = {n: TrainerSettings.model_fields[n].default for n in OF_A_JOB}
    plan = TrainingSettings().model_dump()
    assert {OF_A_JOB[name]: value for name, value in defaults.items()}.items() <= plan.items()


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page()
    text = settings_page.page()
    for name in setting_names.OF_CLASSES | setting_names.INSTALLATION | setting_names.PORTS:
        assert f"`{name.upper()}`" in text, name


def test_the_example_of_an_env_file_sets_what_is_known_and_not_worked_out() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    shown = re.findall(r"^#(DURAMEN_\w+)=", text, flags=re.MULTILINE)
    assert len(shown) > 20
    worked_out = {
        f"DURAMEN_{n.upper()}" for n in settings_page.WORKED_OUT | settings_page.HANDED_ON
    }
    assert set(shown) <= setting_names.KNOWN_NAMES | {
        f"{n}_FILE" for n in setting_names.KNOWN_NAMES
    }
    assert not set(shown) & worked_out
    defaults = {n: str(f.default) for n, f in TrainerSettings.model_fields.items()}
    for name, value in re.findall(r"^#DURAMEN_(\w+)=(\S*)$", text, flags=re.MULTILINE):
        if name.lower() in OF_A_JOB:
            assert float(defaults[name.lower()]) == float(value), name
