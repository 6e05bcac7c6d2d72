"""What users are told to type exists: in messages, in the README, in what containers print."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import REGISTRY

from services.ctl.__main__ import PLACES, app
from services.ctl.commands.lineages import named
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import close  # noqa: F401 - its metrics are looked at
from services.vault import checks, copies  # noqa: F401 - as above

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"\bduramen ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?")


def texts() -> Iterator[tuple[str, str]]:
    """(file, text) of every string in the code but docstrings, and of the README's code."""
    for folder in ("services", "shared", "infra"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(file.read_text())
            documents = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and id(node) not in documents:
                    yield file.name, str(node.value)
    for piece in re.findall(r"`([^`\n]+)`", (ROOT / "README.md").read_text()):
        yield "README.md", piece


def subcommands(name: str) -> set[str]:
    """Of a group; nothing for a plain command."""
    command: Any = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]
    return set(getattr(command, "commands", {}))


def test_every_command_that_is_told_exists() -> None:
    told = {(f, *m.groups()) for f, text in texts() for m in COMMAND.finditer(text)}
    assert len(told) > 30
    groups = {name: subcommands(name) for name in PLACES}
    wrong = [
        (file, name, sub)
        for file, name, sub in sorted(told, key=str)
        if name not in PLACES or (groups[name] and sub and sub not in groups[name])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("duramen_train_segments_total", "outcome", {"done", "failed", "stopped", "void"}),
        ("duramen_vault_copy_failures_total", "place", {"store", "backup", "archive"}),
        ("duramen_vault_verify_failures_total", "place", {"store", "backup", "archive"}),
    ],
)
def test_what_alerts_look_for_a_rise_of_is_there_before_the_first(
    name: str, label: str, values: set[str]
) -> None:
    found = {
        sample.labels[label]
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name
    }
    assert values <= found


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 0), ("eval_fraction", 1.5), ("eval_fraction", -0.1), ("micro_batch_tokens", 0)],
)
def test_settings_that_no_worker_could_run_with_are_refused(name: str, value: float) -> None:
    needed: dict[str, Any] = {
        "nats_url": "nats://bus",
        "nats_seed_file": "seed",
        "state_dir": "state",
        "http_port": 1,
        "http_token": "long-enough",
        "store_url": "http://store",
        "store_access_key": "key",
        "store_secret_key": "long-enough",
    }
    assert TrainerSettings(**needed).micro_batch_tokens > 0
    with pytest.raises(ValueError, match=name):
        TrainerSettings(**{**needed, name: value})


def test_blanks_between_targets_are_no_part_of_them() -> None:
    assert named("q_proj, v_proj ,o_proj") == ["q_proj", "v_proj", "o_proj"]
    assert named("all-linear") == "all-linear"
