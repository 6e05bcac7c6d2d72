"""Which files of a data set on the hub are a split, as `datasets` of Hugging Face finds them.

Names come from strangers: they are compared and shown, and become no path here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import NotFound, UsageError
from shared.foreign_text import one_line

HUB_NAME = re.compile(
    r"hf:(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:/(?P<config>[^/:\s]{1,200}))?(?::(?P<split>\w+(?:\.\w+)*))?"
)
DATA_FILE = re.compile(
    r"\.(?:parquet|(?:jsonl|ndjson|json|csv|tsv)(?:\.(?:gz|zst|xz|bz2))?)$", re.IGNORECASE
)
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
BY_HAND = "download its files yourself, then: duramen submit FILE"


@dataclass(frozen=True)
class HubSource:
    """What a user asked for: `hf:owner/name`, a configuration if there are several, a split."""

    name: str
    config: str | None
    split: str

    @classmethod
    def parse(cls, text: str) -> "HubSource":
        """Read `hf:owner/name[/config][:split]`. Raises UsageError."""
        match = HUB_NAME.fullmatch(text)
        if match is None or ".." in match["name"] or "--" in match["name"]:
            raise UsageError(
                f"{text!r} is not the name of a data set on the hub.",
                next_step="duramen submit hf:owner/name, or hf:owner/name/config:split",
            )
        return cls(match["name"], match["config"], match["split"] or "train")

    def file_name(self, config: str | None, path: str, number: int, count: int) -> str:
        """Return the name under which a file is submitted; only the suffix is the hub's."""
        suffix = DATA_FILE.search(path)
        assert suffix is not None, "it was chosen for its suffix"
        parts = [*self.name.split("/"), *([config] if config else []), self.split]
        plain = "--".join(re.sub(r"[^\w.-]", "_", part)[:60] for part in parts)
        shard = f"-{number:05}-of-{count:05}" if count > 1 else ""
        return f"{plain}{shard}{suffix[0].lower()}"


def files_of_split(
    source: HubSource, card: Mapping[str, Any], paths: Iterable[str]
) -> tuple[str | None, list[str]]:
    """Return the configuration and the paths of a split. Raises NotFound, UsageError."""
    every = sorted(path for path in paths if is_plain(path))
    data = [path for path in every if DATA_FILE.search(path)]
    if not data:
        raise UsageError(f"{source.name} {why_no_data(every)}", next_step=BY_HAND)
    config, splits = splits_of(source, card, data)
    if not splits.get(source.split):
        known = ", ".join(sorted(name for name, files in splits.items() if files)) or "none"
        raise NotFound(
            f"{source.name} has no split {source.split} of JSONL, JSON, CSV or Parquet files. "
            f"Its splits: {one_line(known)}.",
            next_step="duramen submit hf:owner/name:split",
        )
    return config, splits[source.split]


def is_plain(path: str) -> bool:
    """Return whether a path of the hub stays in its folder and can be shown."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not {"", ".", ".."} & set(parts)


def why_no_data(paths: list[str]) -> str:
    """Return why there is nothing to submit."""
    scripts = [path for path in paths if path.endswith(".py")]
    if scripts:
        return f"is made by a program ({scripts[0]}), which is not run here; it has no data files."
    return "has no files in JSONL, JSON, CSV or Parquet."


def splits_of(
    source: HubSource, card: Mapping[str, Any], data: list[str]
) -> tuple[str | None, dict[str, list[str]]]:
    """Return the configuration that is meant, and the files of each of its splits."""
    configs = [each for each in card.get("configs") or [] if isinstance(each, Mapping)]
    if not configs:
        if source.config is not None:
            raise NotFound(f"{source.name} has no configurations, so {source.config} is not one.")
        return None, splits_by_name(data)
    chosen = chosen_config(source, configs)
    inner = str(chosen.get("data_dir") or "").strip("/")
    inside = [path for path in data if not inner or path.startswith(f"{inner}/")]
    name = str(chosen.get("config_name", "default"))
    shown = name if len(configs) > 1 else None
    if not chosen.get("data_files"):
        return shown, splits_by_name(inside)
    found = {}
    for split, patterns in split_patterns(chosen["data_files"]):
        matching = [re.compile(glob_to_regex(f"{inner}/{p}" if inner else p)) for p in patterns]
        found[split] = [path for path in inside if any(m.fullmatch(path) for m in matching)]
    return shown, found


def chosen_config(source: HubSource, configs: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the configuration that was asked for, or the one that needs no asking."""
    names = [str(each.get("config_name", "default")) for each in configs]
    known = one_line(", ".join(names))
    if source.config is not None:
        if source.config not in names:
            raise NotFound(f"{source.name} has no configuration {source.config}, but {known}.")
        return configs[names.index(source.config)]
    default = [each for each in configs if each.get("default") is True]
    if len(configs) > 1 and len(default) != 1:
        raise UsageError(
            f"{source.name} has several configurations: {known}. Name one of them.",
            next_step=f"duramen submit hf:{source.name}/{one_line(names[0])}:{source.split}",
        )
    return default[0] if default else configs[0]


def split_patterns(files: object) -> list[tuple[str, list[str]]]:
    """Return the patterns of each split, from the forms in which a card may give them."""
    if isinstance(files, Mapping):
        return [(str(split), as_list(paths)) for split, paths in files.items()]
    items = files if isinstance(files, list) else [files]
    named = [each for each in items if isinstance(each, Mapping)]
    if named:
        return [(str(each.get("split", "train")), as_list(each.get("path"))) for each in named]
    return [("train", as_list(items))]


def as_list(paths: object) -> list[str]:
    return [str(path) for path in (paths if isinstance(paths, list) else [paths])]


def glob_to_regex(pattern: str) -> str:
    """Return a regular expression for a pattern in which `**` also matches folders."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(piece) or re.escape(piece) for piece in pieces)


def splits_by_name(data: list[str]) -> dict[str, list[str]]:
    """Return the files by the split that a word in their path names; all are train without any."""
    found = {
        split: [path for path in data if has_word(path, words)]
        for split, words in SPLIT_WORDS.items()
    }
    return found if any(found.values()) else {"train": data}


def has_word(path: str, words: tuple[str, ...]) -> bool:
    pattern = rf"(?<![a-zA-Z])(?:{'|'.join(words)})(?![a-zA-Z])"
    return re.search(pattern, path, re.IGNORECASE) is not None
