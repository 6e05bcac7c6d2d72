"""The process that trains: `python -m services.trainer.worker SPEC.json`.

It reads local files only and speaks JSON lines: events on stdout, commands on stdin, sentences for
the job's log on stderr. It dies with its supervisor, and holds a lock for its life, so that two
never train the same thing. After `end` or `failed` it exits with 0.
"""

import fcntl
import json
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.model.template import Chat
    from services.trainer.worker.data.plan import Material

# Before torch is imported: threads that spin while waiting collapse where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Each step has another number of tokens. In blocks of fixed sizes a GPU's memory then fills with
# holes: 9.1 GiB held for 6.8 GiB used (1.2 billion weights, recomputed), and 7.3 GiB with these.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from pydantic import ValidationError

from services.model.out_of_memory import is_out_of_memory
from services.trainer.protocol import DISK_FULL, Spec
from shared.child import ORPHANED, die_with_parent
from shared.errors import CannotTrain, FailureKind

LOCK_SECONDS = 10.0  # a killed worker's GPU context may take a moment to go
OURS = str(Path(__file__).parents[2])  # services/: where a traceback is in our own code


class Line:
    """The connection to the supervisor: JSON lines both ways."""

    def __init__(self) -> None:
        # Libraries print. Nothing but events may reach the supervisor, so fd 1 becomes fd 2.
        self.out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.arrived = threading.Condition()
        self.commands: set[str] = set()
        self.disposable = True  # until the first step nothing is lost by leaving at once
        threading.Thread(target=self.listen, daemon=True).start()

    def emit(self, event: dict[str, Any]) -> None:
        try:
            self.out.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
        except BrokenPipeError:
            os._exit(ORPHANED)

    def listen(self) -> None:
        for line in sys.stdin.buffer:
            try:
                name = json.loads(line)["command"]
            except (ValueError, KeyError, TypeError):
                say(f"not a command: {line[:200]!r}")
                continue
            with self.arrived:
                if name == "finish" and self.disposable:
                    os._exit(0)
                self.commands.add(str(name))
                self.arrived.notify_all()
        # End of file: the supervisor is gone, and with it whoever could use what comes next.
        os._exit(ORPHANED)

    def take(self) -> set[str]:
        """The commands since the last call."""
        with self.arrived:
            taken, self.commands = self.commands, set()
        return taken

    def leaving(self) -> bool:
        """True while a `finish` waits to be taken."""
        with self.arrived:
            return "finish" in self.commands

    def wait_for_go(self) -> None:
        with self.arrived:
            self.arrived.wait_for(lambda: "go" in self.commands)
            self.commands.discard("go")

    def begin(self) -> None:
        """From here on `finish` means: at the end of the step, with a checkpoint."""
        with self.arrived:
            self.disposable = False


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.exit("usage: python -m services.trainer.worker SPEC.json")
    if not die_with_parent():
        say("PR_SET_PDEATHSIG is refused here; the end of stdin must do")
    line = Line()
    try:
        spec = Spec.model_validate_json(Path(arguments[0]).read_bytes())
        with_lock(spec.lock_file)
        run(spec, line)
    except CannotTrain as failure:
        report(line, failure)
    except ValidationError as error:
        report(line, CannotTrain("internal", f"The specification is wrong: {error}"))
    except Exception as error:  # noqa: BLE001  # the supervisor must learn why, whatever it is
        say(traceback.format_exc())
        report(line, classify(error))
    return 0


def run(spec: Spec, line: Line) -> None:
    """Plan, wait for `go`, train. torch is imported here, after the environment is set."""
    began = time.monotonic()
    if spec.quantize == "none":
        leave_out_quantizer()
    import torch

    from services.model.device import total_memory
    from services.model.template import Chat
    from services.trainer import checkpoint
    from services.trainer.worker import base_check, micro_batches
    from services.trainer.worker.data import plan

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    for directory in (spec.checkpoint_dir, spec.snapshot.directory):
        checkpoint.sweep(directory)
    base_check.check(
        spec.base_dir,
        spec.dtype,
        total_memory(spec.device),
        quantize=spec.quantize,
        limit=spec.memory_limit,
    )
    chat = Chat(spec.base_dir, spec.clock, spec.chat_template)
    plan_began = time.monotonic()
    material = plan.build_plan(spec, chat) if spec.plan is None else plan.load_plan(spec, chat)
    seconds = time.monotonic() - plan_began
    path = spec.plan_out if spec.plan is None else spec.plan
    check_start(spec, len(material.plan.steps))
    line.emit({**material.event(path), "seconds": seconds})
    share = material.plan.trained_tokens / material.plan.tokens
    say(
        f"plan {material.sha256[:12]}: {len(material.plan.steps)} steps, "
        f"{share:.0%} of {material.plan.tokens} tokens trained"
    )
    line.wait_for_go()
    try:
        train(spec, line, material, chat, began)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        final = not micro_batches.may_be_halved(material, spec.micro_tokens)
        why = f"Memory ran out at micro_tokens {spec.micro_tokens}: {error}"
        raise CannotTrain("memory", why[:2000], final=final) from error


def train(spec: Spec, line: Line, material: "Material", chat: "Chat", began: float) -> None:
    """Load base, adapter and checkpoint; train. `began`: monotonic seconds of the start."""
    from services.model.kernels import Proofs
    from services.model.network import Network
    from services.trainer.worker import loop, saving
    from services.trainer.worker.optimizer import make_optimizer
    from services.trainer.worker.snapshot.snapshot import Snapshots

    network = Network(
        spec.base_dir,
        spec.dtype,
        spec.lora,
        material.plan.settings.seed,
        quantize=spec.quantize,
        recompute=spec.gradient_checkpointing,
        proofs=Proofs(spec.proofs, (spec.base_root, spec.dtype, spec.quantize)),
        device=spec.device,
    )
    for note in network.notes:
        say(note)
    optimizer = make_optimizer(network, material.plan.settings)
    saving.resume(spec, material, network, optimizer)
    snapshots = Snapshots(spec, material, network, chat)
    line.emit(
        {
            "event": "ready",
            "seconds": time.monotonic() - began,
            "parameters": sum(p.numel() for p in network.adapter.values()),
            "base_parameters": sum(p.numel() for p in network.base.parameters()),
            "rss_bytes": resident_bytes(),
            "device": network.device.type,
            "attention": network.way.value,
            "notes": network.notes,
        }
    )
    say(
        f"training on {network.device.type} from step {spec.start.position}, "
        f"attention: {network.way.value}"
    )
    line.begin()
    end = loop.train(spec, material, network, optimizer, snapshots, line)
    say(f"{end['outcome']} at step {end['checkpoint']['position']}")
    line.emit(end)


def check_start(spec: Spec, steps: int) -> None:
    if spec.start.position > steps:
        raise CannotTrain(
            "data", f"The plan has {steps} steps; cannot start at {spec.start.position}."
        )
    if spec.checkpoint is None and (spec.start.position or spec.start.global_step):
        raise CannotTrain("checkpoint", "Only step 0 of a lineage starts without a checkpoint.")


def leave_out_quantizer() -> None:
    """Hide bitsandbytes from peft, which else imports it where it is installed, for seconds."""
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]


def with_lock(path: Path) -> None:
    """Hold the lock until this process ends; its file stays open for that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CannotTrain("internal", f"Another worker holds {path}.") from None
            time.sleep(0.1)


def classify(error: Exception) -> CannotTrain:
    kind: FailureKind = "internal"
    text = str(error) or type(error).__name__
    if is_out_of_memory(error):
        kind = "memory"
    elif isinstance(error, OSError) and error.errno in DISK_FULL:
        kind = "disk"
    ours = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
    at = f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""
    return CannotTrain(kind, f"{type(error).__name__}: {text[:2000]}{at}")


def report(line: Line, failure: CannotTrain) -> None:
    say(f"failed ({failure.kind}): {failure.message}")
    event: dict[str, Any] = {
        "event": "failed",
        "kind": failure.kind,
        "message": failure.message,
        "suspect": failure.suspect,
        "final": failure.final,
    }
    if failure.example is not None:
        event["example"] = failure.example
    line.emit(event)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def say(sentence: str) -> None:
    """A line for the job's log. On a full disk it is lost; what happened is still told."""
    with suppress(OSError):
        os.write(2, sentence.encode(errors="backslashreplace") + b"\n")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    with suppress(OSError):
        sys.stderr.flush()
    # Not through the interpreter's end: threads of native libraries may hang there.
    os._exit(code)
