"""What of a model directory becomes a base, and which of its layers can be trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from services.ctl import cli
from services.ctl.commands import lineages as command
from services.ctl.commands.bases import files_of
from services.ctl.commands.lineages import check_targets
from services.ctl.views import base_trial
from services.model.targets import choose_targets
from shared.errors import UsageError
from shared.formats.adapter import AdapterShape
from shared.formats.base_layers import BaseLayers, layers_in
from shared.formats.model_files import read_header
from shared.memory_estimate import Choice, estimate_memory, shape_of_folder
from tests.odd_bases import make_odd
from tests.tiny import make_tiny


def layers_of_folder(folder: Path) -> BaseLayers:
    headers = []
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            headers.append(read_header(file, path.name))
    return layers_in(json.loads((folder / "config.json").read_bytes()), headers)


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


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    secret = tmp_path / "id_ed25519"
    secret.write_text("a private key")
    (base / "LICENSE").symlink_to(secret)
    with pytest.raises(UsageError, match=r"LICENSE in .* is a link to .*/id_ed25519"):
        files_of(base)
    (base / "LICENSE").unlink()
    (base / "LICENSE").symlink_to("config.json")
    assert "LICENSE" in files_of(base)


def test_a_folder_that_is_itself_a_link_is_a_directory_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make_tiny(tmp_path / "base"))
    assert "config.json" in files_of(tmp_path / "link")


def test_links_of_the_hubs_cache_lead_to_its_own_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    blobs, folder = repository / "blobs", repository / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    for path in make_tiny(tmp_path / "base").iterdir():
        path.rename(blobs / path.name)
        (folder / path.name).symlink_to(Path("../../blobs") / path.name)
    assert {"config.json", "model.safetensors"} <= set(files_of(folder))
    (folder / "NOTICE").symlink_to("../../../models--other--name/blobs/secret")
    assert "NOTICE" not in files_of(folder)  # it leads nowhere
    (tmp_path / "secret").write_text("of another")
    (folder / "LICENSE").symlink_to("../../../secret")
    with pytest.raises(UsageError, match="LICENSE"):
        files_of(folder)


def test_a_directory_without_its_weights_is_refused(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    (base / INDEX).write_text(json.dumps({"weight_map": {"w": "elsewhere.safetensors"}}))
    with pytest.raises(UsageError, match="contains no"):
        files_of(base)


def test_layers_that_the_base_has_not_are_refused_with_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = layers_of_folder(make_tiny(tmp_path / "base"))
    made: list[Any] = []
    monkeypatch.setattr(cli, "settings", lambda: None)
    monkeypatch.setattr(cli, "first_store", lambda _: None)
    monkeypatch.setattr(cli, "run_command", lambda work: made.append(work.close()))
    monkeypatch.setattr(command, "find_root", lambda *_: "ab" * 32)
    monkeypatch.setattr(command, "layers_in_store", lambda *_: layers)
    monkeypatch.setattr(base_trial, "try_base", lambda *_: "it is not asked")
    with pytest.raises(UsageError, match="no layer 'c_attn', 'Q_proj'") as caught:
        command.new("one", "ab", targets="q_proj,c_attn,Q_proj")
    assert "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj" in caught.value.next_step
    assert not made
    command.new("one", "ab", targets="q_proj, down_proj")
    assert len(made) == 1


def test_targets_are_taken_by_how_names_end_and_unknown_ones_refused(tmp_path: Path) -> None:
    layers = layers_of_folder(make_tiny(tmp_path / "base"))
    check_targets(["q_proj", "self_attn.v_proj", "layers.0.mlp.up_proj"], layers)
    with pytest.raises(UsageError, match=r"'gate_prj', 'proj'.* nearest names are gate_proj"):
        check_targets(["q_proj", "gate_prj", "proj"], layers)


def test_a_head_or_embedding_is_a_target_only_where_each_has_its_own_matrix(tmp_path: Path) -> None:
    untied = layers_of_folder(make_tiny(tmp_path / "untied", tie_word_embeddings=False))
    check_targets(["lm_head", "embed_tokens"], untied)
    tied = layers_of_folder(make_tiny(tmp_path / "tied"))
    for target in ("lm_head", "embed_tokens", "model.embed_tokens"):
        with pytest.raises(UsageError, match="one matrix") as caught:
            check_targets(["q_proj", target], tied)
        assert "--targets down_proj,gate_proj" in (caught.value.next_step or "")


@pytest.mark.parametrize(
    "family", ["Llama 4 (text)", "Mixtral", "Qwen3-MoE", "gpt-oss", "Mamba", "Jamba", "JetMoE"]
)
def test_files_tell_what_a_network_leaves_out(family: str, tmp_path: Path) -> None:
    """Also where the files name the experts one by one, and the network holds them as one."""
    folder = make_odd(tmp_path, family)
    by_files = layers_of_folder(folder).left_out
    base = AutoModelForCausalLM.from_pretrained(str(folder))
    assert by_files == choose_targets(base, AdapterShape()).left_out
    check_targets([name for kind in by_files for name in kind.names], layers_of_folder(folder))


def test_memory_is_estimated_for_the_layers_that_get_an_adapter(tmp_path: Path) -> None:
    """A mixture names hundreds of matrices of experts in its files, and trains none of them."""
    shape = shape_of_folder(make_odd(tmp_path, "Qwen3-MoE"))
    trained = {m.name.rpartition(".")[2] for m in shape.linears if not m.is_left_out}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj"}
    sizes = [
        estimate_memory(shape, Choice("float32", 64), AdapterShape(targets=targets), "cpu")
        for targets in ("all-linear", tuple(trained))
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("family", ["GPT-2", "MPT", "BLOOM", "Mamba", "GPT-Neo"])
def test_the_size_of_an_older_family_is_read_under_its_own_names(
    family: str, tmp_path: Path
) -> None:
    shape = shape_of_folder(make_odd(tmp_path, family))
    assert (shape.layers, shape.hidden) == (2, 64)
