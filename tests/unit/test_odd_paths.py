"""A path may have any character but a line break: each file that names one is read back."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from dotenv import dotenv_values

from infra.env_file import env_lines, read_env
from infra.local.environment import write_env
from infra.local.home import Home
from infra.local.lifecycle import NotStarted, up
from infra.local.ports import free_ports
from infra.local.servers import StoreServer, binary
from infra.secrets.inner import security_toml
from infra.secrets.secrets import Secrets
from infra.servers.nats.conf import NatsConf
from services.ctl import cli
from shared.files import write_synced

ODD = """it's a "home" $x ${HOME} %20 #1 ü , : ; & \\ `id` !"""
PARTS = [
    "plain",
    "it's",
    'a "b"',
    "$HOME",
    "${HOME}",
    "a,b",
    "a\\b",
    "a\\",
    "'",
    "a #b",
    " a ",
    ODD,
]


@pytest.mark.parametrize("part", PARTS)
def test_a_value_of_an_env_file_comes_back_as_it_was(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "env"
    write_env(path, {"DURAMEN_NATS_URL": part, "NEXT": "1"})
    values = {"DURAMEN_NATS_URL": part, "NEXT": "1"}
    assert dotenv_values(path, interpolate=False) == values
    assert read_env(path) == values
    monkeypatch.setenv("DURAMEN_ENV_FILE", str(path))
    for name in values:
        monkeypatch.delenv(name, raising=False)
    cli.read_env_file(path)
    assert os.environ.pop("DURAMEN_NATS_URL") == part
    del os.environ["NEXT"]


@pytest.mark.parametrize("part", ["plain", "it's", 'a "b"', "$HOME", "a,b", "a #b", "it's #1, ü"])
def test_a_shell_reads_a_value_alike(tmp_path: Path, part: str) -> None:
    (tmp_path / "env").write_text(env_lines({"X": part}))
    shown = subprocess.check_output(["sh", "-c", '. ./env; printf %s "$X"'], cwd=tmp_path)
    assert shown.decode() == part


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b c", "b c"),
        ("A='b' # why", "b"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ('A="it\'s"', "it's"),
        ("export A='x'", "x"),
        ("A=", ""),
    ],
)
def test_what_a_user_writes_into_env_is_read(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / ".env").write_text(line + "\n")
    assert read_env(tmp_path / ".env") == {"A": value} == dict(dotenv_values(tmp_path / ".env"))


@pytest.mark.parametrize("name", ["two\nlines", os.fsdecode(b"\xff")])
def test_a_home_that_no_file_could_name_is_refused_before_anything_starts(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(NotStarted, match="line break"):
        up(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", PARTS)
def test_the_paths_of_a_store_are_found_by_its_server(tmp_path: Path, part: str) -> None:
    folder = tmp_path / part / "inner"
    write_synced(folder / "jwt.json", b'{"jwt.signing": "k"}')
    read = tomllib.loads(security_toml(folder))
    assert read["grpc"]["ca"] == str(folder / "ca.pem")
    assert read["grpc"]["s3"]["key"] == str(folder / "key.pem")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    return Secrets.ensure(tmp_path_factory.mktemp("secrets") / "secrets")


def test_a_server_is_started_with_paths_that_it_does_not_take_apart(
    tmp_path: Path, secrets: Secrets
) -> None:
    home = Home.make(tmp_path / ODD)
    server = StoreServer(home, free_ports(), secrets, "store").server().seen_from(home.root)
    command = " ".join(server.command(Path("weed")) + server.shell(Path("weed")))
    assert "-dir=store" in command
    assert "-config_dir=run/store" in command
    assert str(tmp_path) not in command


def test_the_bus_stores_where_its_configuration_says(tmp_path: Path, secrets: Secrets) -> None:
    path = tmp_path / ODD / "nats.conf"
    conf = NatsConf(tmp_path / ODD / "nats", 4222, 8222)
    write_synced(path, conf.render(secrets).encode())
    done = subprocess.run(
        [binary("nats-server"), "-t", "-c", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in path.read_text().splitlines() if "store_dir" in line)
    assert json.loads(line.partition(":")[2]) == str(tmp_path / ODD / "nats")
