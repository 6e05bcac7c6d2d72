"""What of a model directory becomes a base, and which of its layers can be trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.ctl import cli
from services.ctl.commands import lineages as command
from services.ctl.commands.bases import files_of
from services.ctl.commands.lineages import check_targets
from shared.errors import UsageError
from shared.memory_estimate import shape_of_folder
from tests.tiny import make_tiny

INDEX = "model.safetensors.index.json"


def test_the_same_weights_in_another_form_are_left_out(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    weights = next(base.glob("*.safetensors"))
    weights.rename(base / "part-1.safetensors")
    (base / "consolidated.safetensors").write_bytes(b"the same once more")
    (base / INDEX).write_text(json.dumps({"weight_map": {"w": "part-1.safetensors"}}))
    found = files_of(base)
    assert [p for p in found if p.endswith(".safetensors")] == ["part-1.safetensors"]
    assert {INDEX, "config.json", "tokenizer.json"} <= set(found)


def test_beside_weights_in_one_part_no_others_are_kept(tmp_path: Path) -> None:
    """The name that is read without an index; makers leave theirs, and adapters, beside it."""
    base = make_tiny(tmp_path / "base")
    (base / "original").mkdir()
    for name in ("consolidated.safetensors", "original/model.safetensors"):
        (base / name).write_bytes(b"the same once more")
    found = files_of(base)
    assert [p for p in found if p.endswith(".safetensors")] == ["model.safetensors"]
    (base / "model.safetensors").rename(base / "part-1.safetensors")
    assert {"part-1.safetensors", "consolidated.safetensors"} <= set(files_of(base))


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": 1}', '{"weight_map": {"w": 1}}', "{"]
)
def test_an_index_that_names_nothing_is_refused(tmp_path: Path, index: str) -> None:
    base = make_tiny(tmp_path / "base")
    (base / INDEX).write_text(index)
    with pytest.raises(UsageError, match=INDEX):
        files_of(base)


def test_a_directory_without_its_weights_is_refused(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    (base / INDEX).write_text(json.dumps({"weight_map": {"w": "elsewhere.safetensors"}}))
    with pytest.raises(UsageError, match="contains no"):
        files_of(base)


def test_layers_that_the_base_has_not_are_refused_with_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of_folder(make_tiny(tmp_path / "base"))
    made: list[Any] = []
    monkeypatch.setattr(cli, "settings", lambda: None)
    monkeypatch.setattr(cli, "first_store", lambda _: None)
    monkeypatch.setattr(cli, "run_command", lambda work: made.append(work.close()))
    monkeypatch.setattr(command, "find_root", lambda *_: "ab" * 32)
    monkeypatch.setattr(command, "shape_in_store", lambda *_: shape, raising=False)
    with pytest.raises(UsageError, match="no layer 'c_attn', 'Q_proj'") as caught:
        command.new("one", "ab", targets="q_proj,c_attn,Q_proj")
    assert "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj" in caught.value.next_step
    assert not made
    command.new("one", "ab", targets="q_proj, down_proj")
    assert len(made) == 1


def test_targets_are_taken_by_how_names_end_and_unknown_ones_refused(tmp_path: Path) -> None:
    shape = shape_of_folder(make_tiny(tmp_path / "base"))
    check_targets(["q_proj", "self_attn.v_proj", "layers.0.mlp.up_proj", "lm_head"], shape)
    with pytest.raises(UsageError, match=r"no layer 'gate_prj', 'proj'.*down_proj,gate_proj"):
        check_targets(["q_proj", "gate_prj", "proj"], shape)
