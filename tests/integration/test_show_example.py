"""`duramen show-example` and `preview` on real servers, for a base without a chat template."""

import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from services.ctl.chat_templates import BY_NAME
from tests.command_line import duramen
from tests.services import House
from tests.stack import Stack
from tests.tiny import line_of, shared_tiny, tiny_conversations


async def test_a_base_without_a_template_is_trained_with_the_lineages_and_shown_by_tokens(
    own_stack: Stack, tmp_path: Path
) -> None:
    house = House(own_stack)
    bare = tmp_path / "bare"
    shutil.copytree(shared_tiny(), bare)
    (bare / "chat_template.jinja").unlink()
    root = house.add_base(bare)
    for name, options in {"plain": (), "main": ("--chat-template", "chatml")}.items():
        made = duramen(own_stack, "lineage", "new", name, "--base", root, *options, "--json")
        told = json.loads(made.stdout)
        assert told["chat_template"] == (BY_NAME["chatml"] if options else None)
        assert told["base_check"]["tried"] is False  # no trainer runs yet
        assert told["base_check"]["why"]
    refused = await house.submit("plain", tiny_conversations(4))
    job = await house.submit("main", tiny_conversations(4, start=10))
    with house.service("trainer"), house.service("ingest"):
        failed = (await house.until_state(refused, "failed")).jobs[refused].record.failure
        assert failed is not None
        assert failed.kind == "template"
        assert "--chat-template" in failed.message
        await house.until_state(job, "done")
        done = duramen(own_stack, "show-example", job.sha256[:12], "2", "--json")
        assert done.returncode == 0, done.stderr
        (tokens,) = json.loads(done.stdout)["sequences"]
        trained = "".join(t["text"] for t in tokens if t["trained"])
        answer: Any = tiny_conversations(1, start=11)[0][1]
        assert trained == f"{answer[1]}<|im_end|>"
        text = duramen(own_stack, "show-example", str(job), "2").stdout
        assert "tokens" in text
        assert "⟦" in text
        tried_out(own_stack, root)
        missing = duramen(own_stack, "show-example", job.sha256[:12], "9")
        assert missing.returncode == 1
        assert "lines 1 to 4" in missing.stdout
        assert duramen(own_stack, "show-example", "f" * 12, "1").returncode == 4
        check_previews(own_stack, tmp_path)


def lines(count: int, *more: bytes) -> bytes:
    talks = [line_of(talk) for talk in tiny_conversations(count, start=50)]
    return b"\n".join([*talks, *more, b""])


def queued(stack: Stack) -> list[str]:
    return [job["job"] for job in json.loads(duramen(stack, "queue", "list", "--json").stdout)]


def check_previews(stack: Stack, folder: Path) -> None:
    """See what `duramen preview` says while the trainer answers, and that nothing comes of it."""
    before = queued(stack)
    file = folder / "seen.jsonl"
    long = b'{"prompt": "a", "completion": "%b", "id": 7}' % (b"word " * 3000)
    file.write_bytes(lines(250, long))
    (folder / "seen.yaml").write_text("epochs: 2\n")
    good = duramen(stack, "preview", str(file), "--set", "max_length=100", "--json")
    assert good.returncode == 0, good.stderr
    found = json.loads(good.stdout)
    report, contents = found["report"], found["report"]["contents"]
    assert report["why"].startswith("would be queued as job ")
    assert report["settings"] == {"epochs": 2, "max_length": 100}
    assert (contents["rows"], contents["ignored_fields"]) == (251, {"id": 1})
    assert (found["tokens"]["counted"], found["tokens"]["max_length"]) == (200, 100)
    answer: Any = tiny_conversations(1, start=50)[0][1]
    (sequence,) = found["tokens"]["shown"][0]["sequences"]
    assert "".join(t["text"] for t in sequence["head"] if t["trained"]) == f"{answer[1]}<|im_end|>"
    file.write_bytes(lines(4, b"[1, 2]"))
    bad = duramen(stack, "preview", str(file))
    assert bad.returncode == 1
    assert "1 of 5 rows is bad" in bad.stderr
    assert "line 5" in bad.stdout
    assert "row 1 (line 1): " in bad.stdout
    assert "⟧" in bad.stdout
    assert "half of the 4 rows looked at have at most " in bad.stdout
    file.write_bytes(lines(4))
    elsewhere = duramen(stack, "preview", str(file), "-l", "nowhere")
    assert elsewhere.returncode == 0
    assert "No tokens are shown: There is no lineage 'nowhere'." in elsewhere.stdout
    assert duramen(stack, "preview", str(file), "--set", "lora_r=3").returncode == 2
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        away = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        began = time.monotonic()
        alone = duramen(stack, "preview", str(file), trainer_url=away)
        assert time.monotonic() - began < 60  # a process that hangs is ended after 120
    assert alone.returncode == 0
    assert f"No tokens are shown: {away} does not answer" in alone.stdout
    assert "row 1 (line 1): {" in alone.stdout
    assert queued(stack) == before


def tried_out(stack: Stack, root: str) -> None:
    """With a trainer, a new lineage's base is tried out first, and one that fails is not made."""
    made = duramen(stack, "lineage", "new", "third", "--base", root)
    assert made.returncode == 0, made.stderr
    assert "Tried out on the trainer's CPU" in made.stdout
    assert "plain peft gives the same logits" in " ".join(made.stdout.split())
    assert "Lineage third was created" in made.stdout
    refused = duramen(stack, "lineage", "new", "fourth", "--base", root, "--targets", "norm")
    assert refused.returncode == 2
    assert "LlamaRMSNorm, not a matrix" in " ".join(refused.stderr.split())
    assert "duramen lineage new NAME --base BASE --targets down_proj" in refused.stderr
    listed = json.loads(duramen(stack, "lineage", "list", "--json").stdout)
    assert [row["left_out"] for row in listed if row["lineage"] == "third"] == [[]]
    assert "fourth" not in {row["lineage"] for row in listed}
