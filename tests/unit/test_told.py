"""What users and readers are told exists: commands, flags, make targets, paths, links, words."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from prometheus_client import REGISTRY

from services.ctl.__main__ import PLACES, app
from services.ctl.commands.lineages import named
from services.evolution.lifelines import STATES
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import close  # noqa: F401 - its metrics are looked at
from services.vault import checks, copies  # noqa: F401 - as above
from shared.protocol.names import DesiredState, JobState, Level, Outcome, Split

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"\bduramen ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?")
IN_CONTAINERS = re.compile(r"\bmake ctl ARGS='?([a-z][a-z-]+)(?: ([a-z][a-z-]+))?")
ROOMS = ("services/", "shared/", "infra/", "tests/", "docs/", ".ci/")
LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
MARKDOWN = [
    Path(name) for name in sorted(subprocess.check_output(LISTED, cwd=ROOT, text=True).split())
]
PAGES = [file for file in MARKDOWN if file.name != "CHANGELOG.md"]  # those that tell of today
GUIDE = [file for file in PAGES if file.parent.name in ("", "docs")]
# Words that mean something particular here, wherever the glossary's readers meet them.
HOUSE_WORDS = [
    "adapter", "alarm", "base", "bootstrap", "bucket", "checkpoint", "claim", "close", "copy",
    "dataset", "fence", "generation", "head", "installation", "instance", "job", "key", "latest",
    "ledger", "lease", "level", "lineage", "lock", "manifest", "micro-batch", "outcome", "place",
    "plan", "position", "precious", "priority", "probe", "receipt", "record", "restore", "resume",
    "rollback", "root", "segment", "sequence", "sidecar", "skip", "snapshot", "split", "step",
    "stream", "supervisor", "surprisal", "ticket", "version", "void", "worker",
]  # fmt: skip
HOUSE_TERMS = (
    "cancelled segment", "commit record", "desired state", "embedded run", "example history",
    "exact match", "failure domain", "fencing token", "held out", "invalid record",
    "rejected command", "rejected file", "run number", "watched example",
)  # fmt: skip
# What earlier texts said, and nobody understood.
PUZZLES = re.compile(
    r"\blife lines?\b|\bfor ever\b|\bgone on from\b|\bwhat is told\b|\blooks? anew\b|\bvoid record"
    r"|\bis no (?:file|level|size|setting)\b|\bto look is\b"
)


def code_in(text: str) -> Iterator[str]:
    """Yield what a page shows as code: each line of its blocks, and each piece in backticks."""
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for piece in re.findall(r"`([^`]+)`", text):
        yield " ".join(piece.split())


def shown() -> Iterator[tuple[str, str]]:
    """Yield (page, code) of every page that tells of today."""
    for file in PAGES:
        for piece in code_in((ROOT / file).read_text()):
            yield str(file), piece


def texts() -> Iterator[tuple[str, str]]:
    """Yield (file, text) of every string in the code but docstrings, and of all pages' code."""
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
    yield from shown()


def command(name: str, sub: str | None = "") -> Any:
    """Return a command as click sees it, or one of its subcommands."""
    found: Any = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]
    return getattr(found, "commands", {}).get(sub, found)


def subcommands(name: str) -> set[str]:
    """Return the commands of a group; nothing for a plain command."""
    return set(getattr(command(name), "commands", {}))


def test_every_command_that_is_told_exists() -> None:
    told = {(f, *m.groups()) for f, text in texts() for m in COMMAND.finditer(text)}
    told |= {(f, *m.groups()) for f, text in texts() for m in IN_CONTAINERS.finditer(text)}
    assert len(told) > 30
    groups = {name: subcommands(name) for name in PLACES}
    wrong = [
        (file, name, sub)
        for file, name, sub in sorted(told, key=str)
        if name not in PLACES or (groups[name] and sub and sub not in groups[name])
    ]
    assert wrong == []


def test_every_flag_of_a_command_that_is_told_exists() -> None:
    told = {
        (file, name, sub, flag)
        for file, text in shown()
        for part in re.split(r"(?=\bduramen [a-z])", text)
        for name, sub in [m.groups() for m in [COMMAND.match(part)] if m]
        for flag in re.findall(r"(?<=\s)--?[a-z][a-z-]*", part.partition(" #")[0])
    }
    assert len(told) > 8
    wrong = [
        (file, name, sub, flag)
        for file, name, sub, flag in sorted(told, key=str)
        if all(flag not in parameter.opts for parameter in command(name, sub).params)
    ]
    assert wrong == []


def test_the_readme_tells_every_command_and_every_subcommand() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in PLACES if f"`duramen {name}" not in text] == []
    told = dict(re.findall(r"`duramen ([a-z]+) \[([^`\]]+)\]`", text))
    groups = {name: set(words.split("\\|")) for name, words in told.items() if "|" in words}
    assert len(groups) > 4
    assert groups == {name: subcommands(name) for name in groups}


def test_every_target_that_is_told_is_in_the_makefile() -> None:
    lines = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in lines for target in line.split()}
    told = {
        (file, word) for file, text in texts() for word in re.findall(r"\bmake ([a-z-]+)", text)
    }
    told = {(file, word) for file, word in told if file.endswith(".md")}
    assert len(told) > 15
    assert {(file, word) for file, word in told if word not in targets} == set()


def test_every_path_and_link_on_a_page_leads_somewhere() -> None:
    paths = {(f, p) for f, p in shown() if p.startswith(ROOMS) and re.fullmatch(r"[\w./-]+", p)}
    assert len(paths) > 60
    assert {(file, path) for file, path in paths if not (ROOT / path).exists()} == set()
    links = [
        (file, link)
        for file in MARKDOWN
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / file).read_text())
        if "://" not in link
    ]
    assert len(links) > 20
    wrong = [(f, to) for f, to in links if not (ROOT / f.parent / to.partition("#")[0]).exists()]
    assert wrong == []


def test_pages_are_as_short_as_they_shall_be() -> None:
    lines = {file: len((ROOT / file).read_text().splitlines()) for file in MARKDOWN}
    assert lines[Path("README.md")] <= 160
    assert [f for f, n in lines.items() if f.parts[:2] == ("docs", "decisions") and n > 40] == []


def defined() -> set[str]:
    """Return the words of the glossary, and the stored names that it gives for some of them."""
    text = (ROOT / "docs/glossary.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    words = {word.strip() for row in rows for word in row.split(",")}
    return words | set(re.findall(r"[Ss]tored as `(\w+)`", text))


def help_texts() -> str:
    """Return all that `duramen … --help` says."""
    commands = [command(name, sub) for name in PLACES for sub in subcommands(name) or [""]]
    helps = [getattr(p, "help", None) or "" for c in commands for p in c.params]
    return "\n".join([*helps, *(c.help or "" for c in commands)])


def test_every_word_of_the_house_that_a_reader_meets_is_in_the_glossary() -> None:
    pages = "\n".join((ROOT / f).read_text() for f in [*GUIDE, Path("shared/FORMAT.md")])
    met = (pages + help_texts()).lower()
    used = {word for word in (*HOUSE_WORDS, *HOUSE_TERMS) if re.search(rf"\b{word}s?\b", met)}
    assert len(used) > 50
    assert used - defined() == set()


def test_every_state_and_outcome_is_explained() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    words = {
        word for kind in (DesiredState, JobState, Level, Outcome, Split) for word in get_args(kind)
    }
    assert {word for word in words if not re.search(rf"\b{word}\b", glossary)} == set()
    learning = (ROOT / "docs/learning.md").read_text()
    assert [state for state in STATES if f"\n| {state} |" not in learning] == []


def test_no_page_says_what_readers_stumbled_over() -> None:
    found = [(file, PUZZLES.findall((ROOT / file).read_text().lower())) for file in GUIDE]
    assert [(file, words) for file, words in found if words] == []


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
