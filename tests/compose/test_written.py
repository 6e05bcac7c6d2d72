"""What can be checked of the containers without an engine."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from infra.compose import measured, ports
from infra.compose.handed import hand_over
from infra.compose.host import PRECIOUS, ROOT, Host, HostRefused
from infra.compose.subset import subset
from infra.env_file import read_env
from infra.local import install
from infra.servers.identities import policy
from services.ctl.settings import CtlSettings
from services.evolution.settings import EvolutionSettings
from services.herald.settings import HeraldSettings
from services.ingest.settings import IngestSettings
from services.trainer.settings import TrainerSettings
from services.vault.settings import VaultSettings
from shared.settings import Settings
from tests.compose.recorder import recording

SERVICES: dict[str, type[Settings]] = {
    "ingest": IngestSettings,
    "trainer": TrainerSettings,
    "vault": VaultSettings,
    "evolution": EvolutionSettings,
    "herald": HeraldSettings,
}
# Given by Docker or by nobody; not the user's to set.
NOT_IN_COMPOSE = {"http_token", "nats_seed_file", "nats_ca"}  # the last: compose.tls.yaml

PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


class Loader(yaml.SafeLoader):
    """Knows compose's own tags."""


for tag in ("!reset", "!override"):
    Loader.add_constructor(tag, lambda loader, node: None)


def compose_file() -> dict[str, dict[str, dict[str, object]]]:
    found: dict[str, dict[str, dict[str, object]]] = yaml.load(
        (ROOT / "compose.yaml").read_text(), Loader
    )
    return found


def declared() -> set[str]:
    """Names of all metrics in the code."""
    files = [*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]
    pattern = re.compile(r'(?:Gauge|Counter|Histogram)\(\s*"(duramen_[a-z0-9_]+)"')
    return {name for file in files for name in pattern.findall(file.read_text())}


def test_every_metric_in_a_panel_or_a_rule_exists_in_the_code() -> None:
    assert measured.metrics_asked() - declared() == set()


def test_every_setting_of_a_service_can_be_set_in_its_container() -> None:
    services = compose_file()["services"]
    for name, settings in SERVICES.items():
        environment = services[name]["environment"]
        assert isinstance(environment, dict)
        names = [key.removeprefix("DURAMEN_").lower() for key in environment]
        given = {*names, *(name.removesuffix("_file") for name in names)}
        assert set(settings.model_fields) - NOT_IN_COMPOSE <= given | NOT_IN_COMPOSE, name


def test_every_alert_has_its_paragraph_and_its_test() -> None:
    rules = yaml.safe_load((ROOT / "infra/prometheus/rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    runbook = (ROOT / "docs/runbook.md").read_text()
    # An alarm of a service has a name in small letters, and may have a paragraph, too.
    assert alerts == set(re.findall(r"^## ([A-Z]\w+)$", runbook, flags=re.MULTILINE))
    tests = yaml.safe_load((ROOT / "infra/prometheus/rules_test.yml").read_text())
    fired = {
        case["alertname"]
        for test in tests["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert alerts == fired


def test_rules_pass_promtool() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not here; the run on an engine uses Prometheus' own image")
    folder = ROOT / "infra" / "prometheus"
    subprocess.run([tool, "test", "rules", "rules_test.yml"], cwd=folder, check=True)


def test_dashboards_are_three_with_distinct_panels() -> None:
    boards = [json.loads(file.read_text()) for file in measured.dashboards()]
    assert sorted(b["title"] for b in boards) == ["Overview", "Training", "Versions & Learning"]
    assert len({b["uid"] for b in boards}) == 3
    for board in boards:
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
        assert len(set(places)) == len(places)


def test_no_container_is_root_or_may_write_where_it_need_not() -> None:
    services = compose_file()["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if name != "owners":  # it may chown fresh volumes, and nothing else
            assert not str(service["user"]).startswith("0"), name
            assert "cap_add" not in service, name
        for port in service.get("ports", []):  # type: ignore[attr-defined]
            assert str(port).startswith("127.0.0.1:"), name


def test_what_asks_for_no_password_is_not_published() -> None:
    services = compose_file()["services"]
    assert "ports" not in services["prometheus"]
    assert [p for p in services["nats"]["ports"] if "8222" in str(p)] == []  # type: ignore[attr-defined]
    assert set(ports.PUBLISHED) == {name for name, s in services.items() if "ports" in s}


def test_precious_volumes_are_external_and_the_others_are_not() -> None:
    volumes = compose_file()["volumes"]
    external = {name for name, volume in volumes.items() if volume and volume.get("external")}
    assert external == set(PRECIOUS)


def test_an_image_gets_what_its_extra_needs_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text()

    def names(*extras: str) -> set[str]:
        return {block.split("==")[0] for block in subset(project, lock, ["core", *extras])}

    assert {"fastapi", "starlette"} <= names()
    assert not names("ingest") & {"torch", "transformers", "pytest"}
    assert {"pyarrow", "transformers", "peft", "nvidia-ml-py"} <= names("trainer")
    assert {"apprise", "grafana-client", "requests"} <= names("herald")
    assert all("--hash=sha256:" in block for block in subset(project, lock, ["trainer"]))
    with pytest.raises(ValueError, match=r"not in requirements\.lock"):
        subset(project, lock, ["no-such-extra"])


def test_the_torch_of_the_images_is_the_one_of_the_project_with_its_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = next(r for r in project["optional-dependencies"]["trainer"] if r.startswith("torch"))
    pinned = dict(PIN.findall((ROOT / "services/torch-cuda.lock").read_text()))
    assert wanted == f"torch=={pinned['torch']}"
    assert f"ARG TORCH={pinned['torch']}\n" in (ROOT / "services/Dockerfile").read_text()
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= set(pinned)
    # What both locks pin is the same: the second one is installed over the first.
    common = dict(PIN.findall((ROOT / "requirements.lock").read_text()))
    assert {n: v for n, v in pinned.items() if n in common and n != "networkx"} == {
        n: v for n, v in common.items() if n in pinned and n != "networkx"
    }


def test_nothing_takes_the_place_of_the_store_clients_http_library() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "urllib3-future" not in lock


def test_settings_are_read_from_a_file_and_completed(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# a comment\nDURAMEN_STORE='seaweedfs'\nexport DURAMEN_TORCH=cpu\n\nX\n")
    assert read_env(path) == {"DURAMEN_STORE": "seaweedfs", "DURAMEN_TORCH": "cpu"}
    host = Host.load({"DURAMEN_STORE": "seaweedfs", "DURAMEN_TORCH": "cpu"})
    assert host.files == ["compose.yaml", "compose.cpu.yaml", "compose.seaweedfs.yaml"]
    assert host.uid != 0
    with pytest.raises(HostRefused, match="minio or seaweedfs"):
        Host.load({"DURAMEN_STORE": "s3"})


def test_secrets_that_the_user_sets_reach_containers_as_files_only(tmp_path: Path) -> None:
    token = tmp_path / "hub"
    token.write_text("hf_one\n")
    chosen = {
        "DURAMEN_HOME": str(tmp_path / "home"),
        "DURAMEN_NOTIFY_URLS": "ntfy://user:word@example.org/topic",
        "HF_TOKEN": "hf_two",
    }
    hand_over(Host.load(chosen))
    run = tmp_path / "home" / "run"
    assert (run / "hub.token").read_text() == "hf_two"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    hand_over(Host.load({**chosen, "DURAMEN_HUB_TOKEN_FILE": str(token)}))
    assert (run / "hub.token").read_text() == "hf_one"
    assert "example.org" in (run / "notify.urls").read_text()
    computed = Host.load(chosen).computed(1)
    assert not any("hf_two" in value or "example.org" in value for value in computed.values())
    environments = [str(s.get("environment", "")) for s in compose_file()["services"].values()]
    assert not any("HF_TOKEN" in text for text in environments)
    with pytest.raises(HostRefused, match="not there"):
        hand_over(Host.load({**chosen, "DURAMEN_HUB_TOKEN_FILE": str(tmp_path / "none")}))


@pytest.mark.slow
def test_the_hub_is_given_the_token_of_the_file(tmp_path: Path) -> None:
    token = tmp_path / "hub.token"
    token.write_text("hf_from_the_file")
    with recording() as hub:
        hub.away = True
        environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("DURAMEN_", "HF_"))},
            **{f"DURAMEN_{name}": "x" * 8 for name in CtlSettings.model_fields if "key" in name},
            **{f"DURAMEN_{name}_URL": "http://127.0.0.1:1" for name in ("NATS", "STORE", "BACKUP")},
            "DURAMEN_NATS_SEED_FILE": str(token),
            "DURAMEN_STATE_DIR": str(tmp_path),
            "DURAMEN_HUB_TOKEN_FILE": str(token),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
        }
        command = [sys.executable, "-m", "services.ctl", "base", "add", "owner/model"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "HF_TOKEN" in done.stderr + done.stdout
    assert hub.bearers - {""} == {"Bearer hf_from_the_file"}


@pytest.mark.parametrize("server", ["store", "backup"])
def test_policies_are_such_as_minio_accepts(server: str) -> None:
    """It refuses a statement whose actions do not fit the kind of its resources."""
    on_bucket = re.compile(r"s3:(ListBucket|GetBucket|PutBucket|DeleteBucket|PutLifecycle)")
    for identity in ("vault", "reader"):
        for statement in policy(server, identity)["Statement"]:
            names = [resource.removeprefix("arn:aws:s3:::") for resource in statement["Resource"]]
            actions = statement["Action"]
            if any(on_bucket.match(action) for action in actions):
                assert any("/" not in name for name in names), statement
            if any(not on_bucket.match(action) for action in actions):
                assert any("/" in name for name in names), statement


def test_the_environment_is_made_as_the_env_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "CHECKOUT", tmp_path)
    monkeypatch.delenv("DURAMEN_TORCH", raising=False)
    (tmp_path / ".env").write_text("DURAMEN_TORCH=cuda\n")
    assert install.has_gpu()
    monkeypatch.setenv("DURAMEN_TORCH", "cpu")
    assert not install.has_gpu()
