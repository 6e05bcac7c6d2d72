"""The keys of shared/store/layout.py are those that the layout trees of shared/FORMAT.md draw."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from shared.store import layout

FORMAT = Path(layout.__file__).parents[1] / "FORMAT.md"
SHA, SEGMENT, LINEAGE, FENCE, STEP = "ab" * 32, "0123456789ab", "main", 3, 42
NUMBER = 17
# What the placeholders of the trees stand for here.
FILLED = {
    "<lineage>": LINEAGE,
    "<segment>": SEGMENT,
    "<sha256>": SHA,
    "<root>": SHA,
    "<12>": SHA[:12],
    "<kind>": "csv",
    "<global_step:08d>": f"{STEP:08d}",
    "<id12>": SHA[:12],
    "<fence>": str(FENCE),
    "<number:08d>": f"{NUMBER:08d}",
}
GIVEN = {
    "sha256": SHA,
    "original_sha256": SHA,
    "root": SHA,
    "kind": "csv",
    "lineage": LINEAGE,
    "segment": SEGMENT,
    "fence": FENCE,
    "version": 7,
    "number": NUMBER,
    "digits": SHA[:5],
    "prefix": layout.checkpoint(LINEAGE, SEGMENT, f"{STEP:08d}-{SHA[:12]}"),
}
# Functions that take a path or the name of a file, and which ones the trees name below them.
NAMED: dict[str, Callable[[str], bool]] = {
    "base_file": lambda key: key.startswith("bases/"),
    "version_file": lambda key: key.startswith("lineages/"),
    "checkpoint_file": lambda key: key.startswith("checkpoints/"),
    "progress_file": lambda key: key.startswith("progress/"),
    "snapshot_file": lambda key: key.startswith("snapshots/"),
    "result_file": lambda key: key.startswith("results/") and key.count("/") == 3,
    "staged_base_file": lambda key: key.startswith("staging/"),
}


def drawn() -> set[str]:
    """Return every key of the layout trees, its placeholders filled."""
    text = FORMAT.read_text(encoding="utf-8")
    trees = re.findall(r"^## Bucket.*?^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found, above = set(), ""
    for line in "".join(trees).splitlines():
        names = [name for name in re.split(r" {2,}", line.strip())[0].split() if name]
        if not line.startswith(" "):
            above = names[0] if line.rstrip().endswith("/") else ""
            names = [] if above else names[:1]
        elif re.match(r" {5,}", line):  # the gloss of the line before goes on
            continue
        found |= {key for name in names for key in spread(above + name)}
    return found


def spread(key: str) -> list[str]:
    """Return the keys that one name of a tree stands for, as `{a,b}` and `<…>` say."""
    for placeholder, value in FILLED.items():
        key = key.replace(placeholder, value)
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", key)
    return [match[1] + name + match[3] for name in match[2].split(",")] if match else [key]


def functions() -> dict[str, Callable[..., object]]:
    found = inspect.getmembers(layout, inspect.isfunction)
    return {
        n: f for n, f in found if f.__module__ == layout.__name__ and not n.startswith("parse_")
    }


def made(keys: set[str]) -> tuple[set[str], set[str]]:
    """Return (the keys, what groups of them begin with) that the layout makes."""
    whole, groups = set(), {v for n, v in vars(layout).items() if n.isupper() and "/" in v}
    for name, function in functions().items():
        asked = inspect.signature(function).parameters
        values = {n: GIVEN[n] for n in asked if n in GIVEN}
        if name in NAMED:
            last = next(n for n in asked if n not in GIVEN)
            start = str(function(**values, **{last: ""}))
            whole |= {
                str(function(**values, **{last: key.removeprefix(start)}))
                for key in keys
                if NAMED[name](key)
            }
        elif name == "checkpoint":
            groups.add(layout.checkpoint(LINEAGE, SEGMENT, f"{STEP:08d}-{SHA[:12]}"))
        else:
            value = function(**values)
            several = value if isinstance(value, list) else [str(value)]
            (groups if name.endswith("s") else whole).update(several)
    return whole, groups


def test_the_layout_makes_every_key_that_format_md_draws_and_no_other() -> None:
    keys = drawn() - {f"{layout.PROBES}…"}
    whole, groups = made(keys)
    assert len(keys) == 36  # as counted by hand
    assert whole == keys
    for beginning in groups - {layout.PROBES}:
        assert any(key.startswith(beginning) for key in keys), beginning


def test_keys_are_read_back_to_what_made_them() -> None:
    assert layout.parse_dataset_file(layout.dataset_report(SHA)) == (SHA, "report.json")
    assert layout.parse_original(layout.dataset_original(SHA, SHA, "csv")) == (SHA, SHA[:12])
    assert layout.parse_original(layout.dataset_data(SHA)) is None
    assert layout.parse_eval_record(layout.eval_record(LINEAGE, SHA)) == (LINEAGE, SHA)
    assert layout.parse_plan(layout.plan(SHA)) == SHA
    assert layout.parse_base_commit(layout.base_commit(SHA)) == SHA
    assert layout.parse_base_commit(layout.base_file(SHA, "inner/SHA256SUMS")) is None
    assert layout.parse_commit(layout.commit(LINEAGE, 7)) == (LINEAGE, 7)
    assert layout.parse_commit(layout.commit(LINEAGE, 1000)) == (LINEAGE, 1000)
    assert layout.parse_commit(layout.latest(LINEAGE)) is None
    assert layout.parse_latest(layout.latest(LINEAGE)) == LINEAGE
    assert layout.parse_audit_file(layout.audit_file(NUMBER)) == NUMBER
    assert layout.parse_audit_file(layout.audit_tail()) is None
    name = f"{STEP:08d}-{SHA[:12]}"
    key = layout.checkpoint_file(layout.checkpoint(LINEAGE, SEGMENT, name), "header.json")
    assert layout.parse_checkpoint_file(key) == (name, "header.json")
    assert layout.parse_snapshot_name("00000042-3.parquet") == (STEP, FENCE)
    assert (
        layout.parse_snapshot(layout.snapshot_file(LINEAGE, SEGMENT, "00000042-3.parquet"))
        == LINEAGE
    )
    assert layout.parse_snapshot(layout.snapshot_file(LINEAGE, SEGMENT, "00000042.parquet")) is None
    assert layout.parse_staged_base(layout.staged_base_file(SHA, "a/b.json")) == SHA


def test_keys_in_work_say_their_kind_segment_and_fence() -> None:
    result = layout.result(LINEAGE, SEGMENT, FENCE)
    assert layout.parse_work(result) == ("results", SEGMENT, FENCE)
    inside = layout.result_file(LINEAGE, SEGMENT, FENCE, "job.log")
    assert layout.parse_work(inside) == ("results", SEGMENT, FENCE)
    progress = layout.progress_file(LINEAGE, SEGMENT, "job.log")
    assert layout.parse_work(progress) == ("progress", SEGMENT, None)
