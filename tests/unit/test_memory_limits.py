"""The containers' limits of memory follow from the host, and never add up to more than it has."""

import re

import pytest
import yaml

from infra.compose import memory
from infra.compose.host import ROOT, Host, HostRefused
from shared import setting_names

GIB = 1 << 30
TOO_SMALL = "6.0 GiB of memory, and the containers need"


@pytest.mark.parametrize("gib", [7.5, 8, 16, 31.2, 64, 128, 1024])
def test_limits_fit_the_host_and_leave_the_system_its_part(gib: float) -> None:
    total = int(gib * GIB)
    found = memory.limits(Host.load({}), total)
    assert set(found) == {*memory.NEEDS, "trainer"}
    assert sum(found.values()) * memory.MEBIBYTE <= total - GIB
    for name, need in memory.NEEDS.items():
        assert need.floor <= found[name] <= need.most, name
    others = sum(found.values()) - found["trainer"]
    assert found["trainer"] >= memory.TRAINER_FLOOR
    assert gib < 16 or found["trainer"] > others / 2


def test_a_large_host_gives_everything_else_to_the_trainer() -> None:
    found = memory.limits(Host.load({}), 128 * GIB)
    assert {name: found[name] for name in memory.NEEDS} == {
        name: need.most for name, need in memory.NEEDS.items()
    }
    assert found["trainer"] > 90 * 1024


@pytest.mark.parametrize(
    ("gib", "settings", "said"),
    [
        (6, {}, TOO_SMALL),
        (6, {"DURAMEN_TRAINER_MEMORY": "3g"}, "lower DURAMEN_TRAINER_MEMORY (3072 MiB)"),
        (32, {"DURAMEN_TRAINER_MEMORY": "64g"}, "lower DURAMEN_TRAINER_MEMORY (65536 MiB)"),
        (32, {"DURAMEN_MEMORY_STORE": "100m"}, "less than the 512 MiB that store needs"),
        (32, {"DURAMEN_MEMORY_NATS": "much"}, "write a size such as 512m or 64g"),
    ],
)
def test_a_host_that_is_too_small_is_refused_in_words(
    gib: int, settings: dict[str, str], said: str
) -> None:
    host = Host.load(settings)
    with pytest.raises(HostRefused, match=re.escape(said)):
        memory.limits(host, gib * GIB)
    assert memory.handed_on(host, gib * GIB)["DURAMEN_TRAINER_MEMORY"] == "2048m"


def test_what_a_user_sets_holds_and_the_others_share_the_rest() -> None:
    host = Host.load({"DURAMEN_TRAINER_MEMORY": "20g", "DURAMEN_WITHOUT": "grafana"})
    found = memory.limits(host, 32 * GIB)
    assert found["trainer"] == 20 * 1024
    assert "grafana" not in found
    assert sum(found.values()) <= 32 * 1024 - memory.SYSTEM_LEAST


def test_every_container_that_keeps_running_has_its_limit_from_there() -> None:
    text = re.sub(r"!\w+", "", (ROOT / "compose.yaml").read_text())
    services = yaml.safe_load(text)["services"]
    running = {name for name, each in services.items() if each.get("restart") != "no"}
    assert running == {*memory.NEEDS, "trainer"}
    for name in running:
        setting = memory.setting_of(name)
        assert services[name]["mem_limit"].startswith(f"${{{setting}:-"), name
        assert setting_names.is_known(setting)
