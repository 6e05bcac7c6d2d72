"""What `make up` looks at before it starts anything, on hosts of many kinds."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from infra.compose import disks, preflight
from infra.compose.host import Host
from infra.compose.smoke import smoke_host
from infra.secrets.certificates import certificate


def devices(folder: Path) -> Path:
    """A kernel's view: sda with two partitions, a volume on the second, sdb, a mirror over both."""
    numbers = {"sda/sda1": "8:1", "sda/sda2": "8:2", "sda": "8:0", "sdb": "8:16"}
    numbers |= {"dm-0": "253:0", "md0": "9:0"}
    for name, number in numbers.items():
        device = folder / "devices" / name
        device.mkdir(parents=True, exist_ok=True)
        (device / "dev").write_text(f"{number}\n")
        if "/" in name:
            (device / "partition").write_text("1\n")
        (folder / number).symlink_to(device)
    for over, under in (("dm-0", "sda/sda2"), ("md0", "sda/sda2"), ("md0", "sdb")):
        link = folder / "devices" / over / "slaves" / Path(under).name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(folder / "devices" / under)
    return folder


def test_partitions_and_volumes_are_followed_down_to_their_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "BLOCKS", devices(tmp_path))
    found = {number: disks.below(os.makedev(*number)) for number in [(8, 1), (253, 0), (9, 0)]}
    assert found == {(8, 1): {"sda"}, (253, 0): {"sda"}, (9, 0): {"sda", "sdb"}}
    assert disks.below(os.makedev(0, 55)) == set()


@pytest.mark.parametrize(
    ("mount", "found"),
    [
        ("zfs tank/duramen", {"pool tank"}),
        ("nfs4 nas:/export/a", {"server nas"}),
        ("cifs //nas/share", {"server nas"}),
        ("overlay overlay", set()),
    ],
)
def test_pools_and_servers_are_one_disk_each(
    mount: str, found: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(
        "22 27 0:21 / / rw - ext4 /dev/none rw\n"
        f"27 1 0:44 / {tmp_path} rw,relatime shared:1 - {mount} rw\n"
    )
    monkeypatch.setattr(disks, "BLOCKS", tmp_path)
    monkeypatch.setattr(disks, "MOUNTS", tmp_path / "mountinfo")
    assert disks.disks_of(tmp_path / "not" / "yet" / "there") == found


def test_places_fall_together_where_they_share_a_disk_or_none_can_say() -> None:
    a, b, both, unknown = (frozenset(names) for names in ("a", "b", "ab", ""))
    assert disks.domains({"store": a, "backup": a, "archive": a}) == [
        ["store", "backup", "archive"]
    ]
    assert disks.domains({"store": a, "backup": b, "archive": a}) == [
        ["store", "archive"],
        ["backup"],
    ]
    assert disks.domains({"store": a, "backup": b, "archive": both}) == [
        ["store", "backup", "archive"]
    ]
    assert disks.domains({"store": a, "backup": b, "archive": unknown}) == [
        ["store", "archive"],
        ["backup"],
    ]
    assert disks.domains({"store": unknown, "backup": unknown, "archive": a}) == [
        ["store", "backup", "archive"]
    ]


@pytest.mark.parametrize(
    ("groups", "ok", "accepted"),
    [
        ([["store", "backup", "archive"]], False, None),
        ([["store", "backup"], ["archive"]], False, None),
        ([["store", "archive"], ["backup"]], True, True),
    ],
)
def test_a_backup_on_the_stores_own_disk_must_be_accepted(
    groups: list[list[str]], ok: bool, accepted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "failure_domains", lambda host: groups)
    assert preflight.look_disks(Host.load({}))[0] is ok
    assert preflight.look_disks(Host.load({"DURAMEN_ACCEPT_ONE_DISK": "yes"}))[0] is accepted


def test_smoke_keeps_away_from_the_folders_of_the_real_installation() -> None:
    real = {
        "DURAMEN_BACKUP_DIR": "/mnt/b",
        "DURAMEN_ARCHIVE_DIR": "/mnt/a",
        "DURAMEN_NUM_TRAIN_EPOCHS": "9",
    }
    host = smoke_host(real)
    # Empty is set: what is not set compose takes from the .env of the real one.
    computed = host.computed(1)
    assert (computed["DURAMEN_BACKUP_DIR"], computed["DURAMEN_ARCHIVE_DIR"]) == ("", "")
    assert host.settings["DURAMEN_NUM_TRAIN_EPOCHS"] == "4"


def test_a_gpu_for_another_torch_is_not_refused_before_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Tesla V100, 550.10, 7.0, 16384 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert preflight.look_gpu(Host.load({}))[0] is False
    assert preflight.look_gpu(Host.load({"DURAMEN_TORCH_INDEX": "https://example.org"}))[0] is None


def test_what_is_mounted_from_a_closed_checkout_is_named(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text("")
    (tmp_path / "rules.yml").chmod(0o640)
    tmp_path.chmod(0o755)
    assert preflight.closed_to_others(tmp_path) == [tmp_path / "rules.yml"]
    (tmp_path / "rules.yml").chmod(0o644)
    assert preflight.closed_to_others(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "ok", "why"),
    [
        ("NVIDIA H100, 580.95.05, 9.0, 81559 MiB", True, "driver 580.95.05"),
        ("NVIDIA GeForce RTX 4090, 550.120, 8.9, 24564 MiB", False, "update the driver"),
        ("Tesla V100, 580.95.05, 7.0, 16384 MiB", False, "compute capability 7.0"),
    ],
)
def test_a_gpu_is_measured_against_what_torch_was_built_for(said: str, ok: bool, why: str) -> None:
    found, text = preflight.fits_torch(said)
    assert found is ok
    assert why in text


def test_a_folder_of_another_user_is_named_with_what_to_do(tmp_path: Path) -> None:
    host = Host.load({"DURAMEN_HOME": str(tmp_path / "home"), "DURAMEN_BACKUP_DIR": str(tmp_path)})
    assert preflight.look_permissions(replace(host, uid=os.getuid()))[0] is True
    found, text = preflight.look_permissions(replace(host, uid=os.getuid() + 1))
    if os.getuid() != 0:  # root gives it away at the start
        assert found is False
        assert f"sudo chown {os.getuid() + 1} {tmp_path}" in text


def test_a_given_certificate_is_tried_before_anything_is_started(tmp_path: Path) -> None:
    host = Host.load({"DURAMEN_NATS_TLS": "yes", "DURAMEN_NATS_TLS_DIR": str(tmp_path)})

    def look() -> tuple[bool | None, str]:
        return preflight.look_tls(host)

    assert look() == (False, f"{tmp_path} (DURAMEN_NATS_TLS_DIR) lacks ca.pem, cert.pem, key.pem")
    whole = given_certificate(tmp_path, "nats")
    assert look()[0] is True
    other = certificate("other", "nats")
    for name, why in (("ca.pem", "issuer|signature"), ("key.pem", "not a certificate and its")):
        (tmp_path / name).write_bytes(other[name])
        found, text = look()
        assert found is False
        assert re.search(why, text), text
        (tmp_path / name).write_bytes(whole[name])
    (tmp_path / "ca.pem").write_text("nonsense")
    assert "not the certificate of an authority" in look()[1]
    given_certificate(tmp_path)  # for localhost and 127.0.0.1 alone
    found, text = look()
    assert found is False
    assert "not valid for 'nats'" in text


def given_certificate(folder: Path, *hosts: str) -> dict[str, bytes]:
    files = certificate("test", *hosts)
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files
