"""The worker as the supervisor sees it: a process with a specification, events and commands."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.trainer import checkpoint
from shared.files import sha256_bytes, sha256_file
from shared.formats.checkpoint import ADAPTER
from tests.tiny import make_tiny, tiny_conversations, write_dataset
from tests.unit.test_plan_rows import TOOLS_TEMPLATE
from tests.worker import ROOT, Job, Worker, failure, tensors


def test_a_killed_worker_continues_from_the_newest_valid_checkpoint_with_the_same_bits(
    job: Job,
) -> None:
    undisturbed = job.run("undisturbed")
    with Worker(job.directory / "killed", job.spec("killed")) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "checkpoint" and e["position"] >= 3)
        worker.kill()
    path, header = job.newest("killed")
    assert 3 <= header.position < undisturbed["checkpoint"]["position"]
    # The newest is damaged as well: the one before it must do.
    weights = path / ADAPTER
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    before, header_before = job.newest("killed")
    assert before != path
    assert header_before.position < header.position
    with Worker(job.directory / "killed", job.resumed("killed", before, header_before)) as worker:
        end = worker.run()
    assert end["reason"] is None
    assert tensors(end) == tensors(undisturbed)
    # The record of the steps is the same as well, each step once.
    assert losses(job.directory / "killed") == losses(job.directory / "undisturbed")


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(m["global_step"], m["loss"]) for m in map(json.loads, lines) if "loss" in m]


def test_a_pause_ends_at_a_step_and_the_rest_gives_the_same_bits(job: Job) -> None:
    undisturbed = job.run("undisturbed", checkpoint_seconds=1e6)
    with Worker(job.directory / "paused", job.spec("paused", checkpoint_seconds=1e6)) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "step" and e["position"] == 2)
        worker.stop()
        end = worker.until_event("end")
        assert worker.wait() == 0
    assert end["reason"] == "pause"
    path, header = job.newest("paused")
    assert str(path) == end["checkpoint"]["path"]
    assert header.id == end["checkpoint"]["id"]
    with Worker(job.directory / "paused", job.resumed("paused", path, header)) as worker:
        assert tensors(worker.run()) == tensors(undisturbed)


def test_a_pause_between_weighted_answers_gives_the_same_bits(job: Job) -> None:
    rows = [json.loads(line) for line in job.dataset.read_bytes().splitlines()]
    for row in rows[::2]:
        row["messages"][-1]["weight"] = 0.25
    data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
    job.dataset.write_bytes(data)
    job.sha256 = sha256_bytes(data)
    whole = job.run("whole")
    with Worker(job.directory / "parted", job.spec("parted")) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "step" and e["position"] == 2)
        worker.stop()
        worker.until_event("end")
    path, header = job.newest("parted")
    assert 0 < header.position < whole["checkpoint"]["position"]
    with Worker(job.directory / "parted", job.resumed("parted", path, header)) as worker:
        parted = worker.run()
    assert tensors(parted) == tensors(whole)


def test_a_pause_before_the_first_step_ends_at_once_and_nothing_is_made(job: Job) -> None:
    with Worker(job.directory / "early", job.spec("early")) as worker:
        worker.until_event("plan")
        worker.stop()
        assert worker.next() is None
        assert worker.wait() == 0
    assert not any((job.directory / "early" / "checkpoints").glob("*"))


def test_the_second_file_goes_on_from_the_head_without_a_second_warm_up(job: Job) -> None:
    first = job.run("first", checkpoint_seconds=1e6)["checkpoint"]
    other = job.directory / "other.jsonl"
    sha256 = write_dataset(other, tiny_conversations(20, start=1000))
    changes = {
        "job": f"{sha256[:12]}.1",
        "segment": "300",
        "fence": 300,
        "dataset": str(other),
        "dataset_sha256": sha256,
        "checkpoint": first["path"],
        "start": {"position": 0, "global_step": first["global_step"]},
        "earlier_plans": [str(job.directory / "first" / "plan.json")],
        "snapshot": {
            "directory": str(job.directory / "second" / "snapshots"),
            "allowance_seconds": 60.0,  # enough for all that is watched
        },
    }
    with Worker(job.directory / "second", job.spec("second", **changes)) as worker:
        end = worker.run()
        steps = [e for e in worker.events if e["event"] == "step"]
        snapshots = [e for e in worker.events if e["event"] == "snapshot"]
    assert steps[0]["global_step"] == first["global_step"] + 1
    assert steps[0]["learning_rate"] == 0.01  # at the top of its own cosine
    assert end["checkpoint"]["global_step"] == first["global_step"] + steps[-1]["steps"]
    assert snapshots[-1]["summary"]["earlier"]["count"] == 16
    # Adam's count goes on as well.
    loaded = checkpoint.load(Path(end["checkpoint"]["path"]))
    counts = {float(v) for n, v in loaded.optimizer.items() if n.endswith(".step")}
    assert counts == {float(end["checkpoint"]["global_step"])}


def test_events_snapshots_and_metrics_tell_of_learning(job: Job) -> None:
    sha256 = write_dataset(job.dataset, tiny_conversations(12))
    spec = job.spec(
        "long",
        dataset_sha256=sha256,
        settings={**job.spec("x")["settings"], "epochs": 100},
        lora={"rank": 8, "alpha": 16},
        snapshot={"directory": str(job.directory / "long" / "snapshots")},
        checkpoint_seconds=1e6,
    )
    with Worker(job.directory / "long", spec) as worker:
        worker.run()
        events = worker.events
    taken = [e for e in events if e["event"] == "snapshot"]
    assert [e["position"] for e in taken[:4]] == [0, 1, 2, 4]
    assert taken[-1]["position"] == taken[-1]["global_step"] == events[0]["steps"]
    first, last = taken[0]["summary"]["trained"], taken[-1]["summary"]["trained"]
    assert first["exact_match"] == 0
    assert last["loss"] < first["loss"] / 4
    assert last["exact_match"] > 0
    table = pq.read_table(taken[-1]["path"]).to_pylist()
    assert len(table) == taken[-1]["measured"]
    exact = [r for r in table if r["exact_match"]]
    assert exact
    assert all(r["answer"].strip() == r["expected"] for r in exact)
    lines = (job.directory / "long" / "metrics.jsonl").read_text().splitlines()
    told = [json.loads(m) for m in lines]
    steps = [m["position"] for m in told if "rows" in m]
    assert steps == list(range(1, events[0]["steps"] + 1))
    decisions = {m["position"]: m["snapshot"] for m in told if "snapshot" in m}
    assert [decisions[p]["size"] for p in (0, 1, 2, 4)] == ["full"] * 4
    assert decisions[steps[-1]]["why"] == "the last of the job"


def test_commands_take_a_checkpoint_and_a_snapshot_between_steps(job: Job) -> None:
    settings = {**job.spec("x")["settings"], "epochs": 40}
    spec = job.spec("commands", settings=settings, checkpoint_seconds=1e6)
    with Worker(job.directory / "commands", spec) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until(lambda e: e["event"] == "step" and e["position"] == 2)
        worker.tell("checkpoint")
        assert worker.until_event("checkpoint")["position"] >= 2
        worker.tell("snapshot")
        assert worker.until_event("snapshot")["position"] >= 2
        worker.stop()
        assert worker.until_event("end")["reason"] == "pause"


def test_a_snapshot_of_a_job_without_examples_is_refused_in_words(job: Job) -> None:
    """Calls alone are trained, and no words are there to be asked for."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n} more?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ],
            "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
        }
        for n in range(40)
    ]
    job.dataset.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    spec = job.spec("calls", dataset_sha256=sha256_file(job.dataset), chat_template=TOOLS_TEMPLATE)
    spec["settings"] |= {"epochs": 200, "max_length": 1000}
    with Worker(job.directory / "calls", spec) as worker:
        worker.until_event("plan")
        worker.tell("go")
        worker.until_event("step")
        worker.tell("snapshot")
        said = worker.until_event("snapshot_skipped")
        assert (said["asked"], said["decision"]["size"]) == (True, "skipped")
        assert "no example" in said["decision"]["why"]


def test_the_worker_ends_when_its_supervisor_does(job: Job) -> None:
    with Worker(job.directory / "orphan", job.spec("orphan")) as worker:
        worker.until_event("plan")
        worker.close_stdin()
        assert worker.wait() == 3


def test_a_supervisor_killed_by_force_takes_the_worker_with_it(job: Job) -> None:
    folder = job.directory / "pair"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(job.spec("pair")))
    # stdin of the worker is held open by us, so that only the parent's death can end it.
    held, handed = os.pipe()
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'services.trainer.worker', sys.argv[1]],"
        f" stdin={held}, close_fds=True)\n"
        "print(p.pid, file=sys.stderr, flush=True)\n"
        "p.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "spec.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(held,),
        cwd=ROOT,
    )
    try:
        assert parent.stderr is not None
        assert parent.stdout is not None
        worker = int(parent.stderr.readline())
        assert json.loads(parent.stdout.readline())["event"] == "plan"
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while alive(worker):
            assert time.monotonic() < deadline, "the worker outlived its supervisor"
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.wait()
        os.close(held)
        os.close(handed)
        for stream in (parent.stdout, parent.stderr):
            if stream is not None:
                stream.close()


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


FOREIGN: list[tuple[str, dict[str, Any], str]] = [
    ("another base", {"base_root": "cd" * 32}, "base_root"),
    ("another shape", {"lora": {"rank": 8, "alpha": 8}}, "lora"),
    ("another step", {"start": {"position": 0, "global_step": 7}}, "global_step"),
]


@pytest.mark.parametrize(("_name", "changes", "shown"), FOREIGN, ids=[f[0] for f in FOREIGN])
def test_a_checkpoint_of_something_else_is_refused_with_the_difference(
    job: Job, _name: str, changes: dict[str, Any], shown: str
) -> None:
    settings = {**job.spec("x")["settings"], "epochs": 1}
    first = job.run("first", settings=settings)["checkpoint"]
    start = {"position": 0, "global_step": first["global_step"]}
    spec = job.spec("next", job="other.1", checkpoint=first["path"], start=start)
    failed = failure(job.directory / "next", {**spec, **changes})
    assert failed["kind"] == "checkpoint"
    assert shown in failed["message"]


def test_a_damaged_dataset_is_refused(job: Job) -> None:
    failed = failure(job.directory / "x", job.spec("x", dataset_sha256="00" * 32))
    assert failed["kind"] == "data"
    assert "damaged" in failed["message"]


def test_a_loss_that_is_no_number_fails_the_job_and_names_the_lines(job: Job) -> None:
    settings = {**job.spec("x")["settings"], "learning_rate": 1e30, "warmup_steps": 0}
    failed = failure(job.directory / "x", job.spec("x", settings=settings))
    assert failed["kind"] == "nan"
    assert failed["suspect"]
    assert "lines" in failed["message"]


def test_a_template_that_would_train_the_wrong_words_is_refused_with_an_example(
    job: Job, tmp_path: Path
) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | upper }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    base = make_tiny(tmp_path / "shouting", template)
    failed = failure(job.directory / "x", job.spec("x", base_dir=str(base)))
    assert failed["kind"] == "mask"
    assert "⟦" in failed["example"]


def test_the_rows_whose_loss_is_no_number_are_named_and_no_others(job: Job, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    base = make_tiny(tmp_path / "broken", tie_word_embeddings=False)
    token = AutoTokenizer.from_pretrained(str(base))("7")["input_ids"][0]
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    settings = {**job.spec("x")["settings"], "batch_tokens": 700}
    spec = job.spec("x", base_dir=str(base), settings=settings)
    failed = failure(job.directory / "x", spec)
    assert failed["kind"] == "nan"
    named = failed["message"].partition("did it: ")[2].partition(".")[0]
    lines = job.dataset.read_text().splitlines()
    poisoned = {n + 1 for n, line in enumerate(lines) if "7" in line}
    assert {int(n) for n in named.split(", ")} <= poisoned
    # Had it been killed before the last of the three, it would have failed at the same step.
    path, header = job.newest("x")
    assert header.position == 2
    resumed = {**job.resumed("x", path, header), "base_dir": str(base), "settings": settings}
    again = failure(job.directory / "x", resumed)
    assert again["message"] == failed["message"]
