"""`duramen show-example` on real servers, for a base that brings no chat template of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

from services.ctl.chat_templates import BY_NAME
from tests.command_line import duramen
from tests.services import House
from tests.stack import Stack
from tests.tiny import shared_tiny, tiny_conversations


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
        assert json.loads(made.stdout)["chat_template"] == (BY_NAME["chatml"] if options else None)
    refused = await house.submit("plain", tiny_conversations(4))
    job = await house.submit("main", tiny_conversations(4, start=10))
    with house.service("trainer"):
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
        missing = duramen(own_stack, "show-example", job.sha256[:12], "9")
        assert missing.returncode == 1
        assert "lines 1 to 4" in missing.stdout
        assert duramen(own_stack, "show-example", "f" * 12, "1").returncode == 4
