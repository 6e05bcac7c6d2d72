"""A split of a data set on the hub: which files it is, what is shown, and every way to fail."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from services.ctl.commands.bases import from_hub
from services.ctl.hub_data import HubFile, each_file, split_at_hub
from services.ctl.hub_split import HubSource, files_of_split
from shared.errors import DuramenError, NotFound, UsageError
from tests.hub import COMMIT, Hub, hub_at_work

ROW = b'{"prompt": "a", "completion": "b"}\n'
SHARDS = [f"data/train-{n:05}-of-00002.parquet" for n in range(2)]
CONFIGS = [
    {"config_name": "en", "data_files": [{"split": "train", "path": "en/*.jsonl"}]},
    {"config_name": "de", "data_files": [{"split": "train", "path": ["de/a.csv", "de/b*"]}]},
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_at_work() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield made


# ---- which files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "card", "paths", "found"),
    [
        ("hf:a/b", {}, ["README.md", "all.jsonl"], ["all.jsonl"]),
        ("hf:a/b", {}, [*SHARDS, "data/test-00000-of-00001.parquet"], SHARDS),
        ("hf:a/b:test", {}, ["train.csv", "x/testing.csv"], ["x/testing.csv"]),
        ("hf:a/b:validation", {}, ["train.json", "dev.json.gz"], ["dev.json.gz"]),
        ("hf:a/b/de", {"configs": CONFIGS}, ["de/a.csv", "de/b.csv", "en/x.jsonl"], 2),
        ("hf:a/b/en:train", {"configs": CONFIGS}, ["de/a.csv", "en/x.jsonl"], ["en/x.jsonl"]),
        ("hf:a/b", {"configs": CONFIGS[:1]}, ["en/x.jsonl", "en/y/z.jsonl"], ["en/x.jsonl"]),
        (
            "hf:a/b",
            {"configs": [CONFIGS[0], {**CONFIGS[1], "default": True}]},
            ["de/a.csv", "en/x.jsonl"],
            ["de/a.csv"],
        ),
        (
            "hf:a/b:x.y",
            {"configs": [{"data_files": {"x.y": "**/d?.jsonl"}, "data_dir": "in/"}]},
            ["in/s/d1.jsonl", "d1.jsonl", "in/d22.jsonl"],
            ["in/s/d1.jsonl"],
        ),
        ("hf:a/b", {"configs": [{"data_files": "only.jsonl"}]}, ["only.jsonl", "z.csv"], 1),
    ],
)
def test_the_files_of_a_split_are_those_that_datasets_finds(
    asked: str, card: dict[str, Any], paths: list[str], found: list[str] | int
) -> None:
    _, files = files_of_split(HubSource.parse(asked), card, paths)
    assert (files == found) if isinstance(found, list) else (len(files) == found)


@pytest.mark.parametrize(
    ("asked", "card", "paths", "words"),
    [
        ("hf:a/b", {"configs": CONFIGS}, ["en/x.jsonl"], "several configurations: en, de"),
        ("hf:a/b/fr", {"configs": CONFIGS}, ["en/x.jsonl"], "no configuration fr, but en, de"),
        ("hf:a/b/fr", {}, ["x.jsonl"], "has no configurations"),
        ("hf:a/b:test", {}, ["train.jsonl"], "no split test"),
        ("hf:a/b", {}, ["b.py", "README.md"], "made by a program (b.py), which is not run here"),
        ("hf:a/b", {}, ["x.arrow"], "has no files in JSONL, JSON, CSV or Parquet"),
        ("hf:a/b", {}, ["../x.jsonl", "/x.jsonl", "a\\x.jsonl", "a\n.jsonl"], "has no files"),
    ],
)
def test_a_split_that_is_not_clear_is_refused_in_one_line(
    asked: str, card: dict[str, Any], paths: list[str], words: str
) -> None:
    with pytest.raises(DuramenError) as caught:
        files_of_split(HubSource.parse(asked), card, paths)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a", "hf:../x", "hf:a/../b", "hf:a/b/c/d", "hf:a/b:", "hf:/a/b", "hf:a/b c"]
)
def test_what_is_not_the_name_of_a_data_set_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a data set"):
        HubSource.parse(text)


def test_a_file_is_named_for_its_data_set_and_not_by_the_hub() -> None:
    source = HubSource.parse("hf:a/b:test")
    assert source.file_name(None, "x/.evil.JSONL.GZ", 0, 1) == "a--b--test.jsonl.gz"
    assert source.file_name("e/n\n", "x.csv", 1, 3) == "a--b--e_n_--test-00001-of-00003.csv"


# ---- the hub -------------------------------------------------------------------------------------


def test_a_split_is_shown_and_each_of_its_files_handed_over(hub: Hub) -> None:
    hub.files["a/b"] = {"README.md": b"", "data/train-0.jsonl": ROW, "data/train-1.jsonl": ROW * 2}
    hub.cards["a/b"] = {"license": "apache-2.0"}
    split = split_at_hub(HubSource.parse("hf:a/b"), None)
    origin, size = split.lines()
    assert origin == f"hf:a/b:train at {COMMIT[:12]}, licence apache-2.0"
    assert size.startswith("2 files, 105 B: data/train-0.jsonl")
    got: dict[str, bytes] = {}

    def use(file: HubFile, path: Path) -> None:
        got[file.name] = path.read_bytes()

    each_file(split, None, use)
    assert got == {
        "a--b--train-00000-of-00002.jsonl": ROW,
        "a--b--train-00001-of-00002.jsonl": ROW * 2,
    }


@pytest.mark.parametrize(
    ("refused", "kind", "words"),
    [
        (None, NotFound, "no data set x/y, or it is private"),
        ((401, "RepoNotFound"), NotFound, "set HF_TOKEN"),
        ((403, "GatedRepo"), DuramenError, "accept them at https://huggingface.co/datasets/x/y"),
        ((401, "GatedRepo"), DuramenError, "set HF_TOKEN"),
        ((403, ""), DuramenError, "a token that may read it"),
        ((418, ""), DuramenError, "The hub refused x/y: 418."),
    ],
)
def test_a_refusal_of_the_hub_is_one_line_with_the_next_step(
    hub: Hub, refused: tuple[int, str] | None, kind: type[DuramenError], words: str
) -> None:
    if refused:
        hub.refused["x/y"] = refused
    with pytest.raises(kind) as caught:
        split_at_hub(HubSource.parse("hf:x/y"), None)
    assert words in str(caught.value)
    assert "Next: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_away_is_said_in_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DuramenError, match=r"the hub cannot be reached: .*Next: download"):
        split_at_hub(HubSource.parse("hf:x/y"), None)
    with pytest.raises(DuramenError, match=r"the hub cannot be reached: .*Next: download"):
        from_hub("x/y", None, None)


def test_a_machine_that_is_said_to_be_offline_says_so(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DuramenError, match="offline mode is enabled"):
        split_at_hub(HubSource.parse("hf:x/y"), None)


def test_a_split_that_is_too_large_is_refused_before_it_is_downloaded(hub: Hub) -> None:
    hub.files["a/b"], hub.sizes = {"a.jsonl": ROW}, {"a.jsonl": 1 << 60}
    with pytest.raises(UsageError, match="too large: 1 file"):
        split_at_hub(HubSource.parse("hf:a/b"), None)
    assert not any("resolve" in path for path in hub.asked)


def test_a_file_of_another_size_than_was_shown_is_refused(hub: Hub) -> None:
    hub.files["a/b"], hub.sizes = {"a.jsonl": ROW}, {"a.jsonl": 5}
    split = split_at_hub(HubSource.parse("hf:a/b"), None)
    with pytest.raises(DuramenError, match="not 5 as the hub said"):
        each_file(split, None, lambda *_: None)
