"""Tries out what a stranger's base makes the worker do, in a child with little memory and time.

`python -m services.trainer.worker.preparation MEMORY_BYTES` answers questions as JSON lines: a
small tokenizer.json can take all memory of a machine, and so can one number of config.json. The
child may map MEMORY_BYTES beyond what it had after its imports, sees no GPU, and gets processor
time for each question; the kernel ends it otherwise. What else is wrong with a base, the worker
finds itself and says in full.
"""

import os
import resource
import signal
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from services.trainer.protocol import Spec
from shared.child import Child, ChildEnded, answer_lines, die_with_parent, limit_memory
from shared.errors import CannotTrain

NEAR_BYTES = 64 << 20  # of the limit: what one more block of an allocator takes
TRIED_ROWS = 100
TRIALS = {
    "network": "its network is built without weights",
    "tokenizer": f"its tokenizer reads {TRIED_ROWS} rows",
}


@dataclass(frozen=True)
class Limits:
    """The bytes and the seconds that a preparation may take."""

    memory_bytes: int = 4 << 30
    cpu_seconds: int = 120
    wall_seconds: float = 900.0  # a busy machine, a slow disk


def prepare_apart(spec: Spec, limits: Limits | None = None) -> None:
    """Check that base and tokenizer of a job take no more than they may.

    Raises CannotTrain (base).
    """
    limits = limits or Limits()
    child = Child(
        "services.trainer.worker.preparation",
        str(limits.memory_bytes),
        environment={"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    about = {
        "base_dir": str(spec.base_dir),
        "dataset": str(spec.dataset),
        "chat_template": spec.chat_template,
        "clock": spec.clock,
    }
    try:
        for question, words in TRIALS.items():
            ask_within(child, {"do": question, **about}, words, limits)
    finally:
        child.close()


def ask_within(child: Child, question: dict[str, Any], words: str, limits: Limits) -> None:
    """Ask the child one question. Raises CannotTrain (base) if it takes more than it may."""
    try:
        answer = child.ask(question, limits.cpu_seconds, wall_seconds=limits.wall_seconds)
    except ChildEnded as ended:
        raise too_much(words, why_ended(ended.status, limits)) from ended
    if "memory" in answer:
        raise too_much(words, why_memory(limits))


def why_ended(status: int, limits: Limits) -> str:
    if status == -signal.SIGXCPU:
        return f"that takes more than {limits.cpu_seconds} seconds of processor time"
    if status == -signal.SIGKILL:
        return "that takes too long, or more memory than this machine has"
    return f"{why_memory(limits)}, or crashes (status {status})"  # some libraries crash for it


def why_memory(limits: Limits) -> str:
    return f"that takes more than {limits.memory_bytes >> 20:,} MiB of memory"


def too_much(words: str, why: str) -> CannotTrain:
    return CannotTrain(
        "base",
        f"The base cannot be used: when {words}, {why}. Its files may be damaged, or made to do "
        "harm. Take another one: duramen base add DIR",
    )


# ---- the child -----------------------------------------------------------------------------------


def serve_questions(memory_bytes: int) -> None:
    """Answer questions until stdin ends."""
    import torch
    import transformers

    die_with_parent()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    tempfile.gettempdir()  # libraries ask for it, and it is found by writing
    limit_memory(memory_bytes, may_write=False)
    answer_lines(tried_out)


def tried_out(question: dict[str, Any]) -> dict[str, Any]:
    """Return {} or, where memory ran out, {"memory": true}."""
    try:
        {"network": build, "tokenizer": use_tokenizer}[question["do"]](question)
    except Exception:  # noqa: BLE001  # what is not for memory, the worker meets again and says
        return {"memory": True} if ran_out() else {}
    return {}


def ran_out() -> bool:
    """Return whether this process has come to its limit of memory: libraries hide why they fail."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak"))
    return peak << 10 > resource.getrlimit(resource.RLIMIT_AS)[0] - NEAR_BYTES


def build(question: dict[str, Any]) -> None:
    """Build the network on the meta device, where numbers take no memory, but modules do."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        question["base_dir"], local_files_only=True, trust_remote_code=False
    )
    with torch.device("meta"):
        from_config: Any = AutoModelForCausalLM.from_config  # it has no annotations
        from_config(config, trust_remote_code=False)


def use_tokenizer(question: dict[str, Any]) -> None:
    """Load the tokenizer, and let it read the first rows as they stand in their file."""
    from services.model.template import Chat

    chat = Chat(Path(question["base_dir"]), question["clock"], question["chat_template"])
    with Path(question["dataset"]).open(encoding="utf-8", errors="replace") as file:
        for line in islice(file, TRIED_ROWS):
            chat.tokens(line)


if __name__ == "__main__":
    serve_questions(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
