"""The process that trains: `python -m services.trainer.worker SPEC.json`.

It reads local files only and communicates as `protocol` says: events on stdout, commands on stdin,
sentences for the job's log on stderr. It dies with its supervisor, and holds a lock as long as it
lives, so that two workers never train the same thing. After `end` or `failed` it exits with 0.
"""

import fcntl
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.model.network import Network
    from services.model.template import Chat
    from services.trainer.worker.data.plan import Material

# Before torch is imported: threads that spin while waiting collapse where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Steps differ in their number of tokens, so blocks of fixed sizes leave holes in a GPU's memory:
# 9.1 GiB held for 6.8 GiB used (1.2 billion weights, recomputed), but 7.3 GiB with this setting.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from pydantic import ValidationError

from services.model.out_of_memory import is_out_of_memory
from services.trainer.protocol import NothingNew, Spec, TrainingFailed, WorkerReady
from services.trainer.worker.pipe import SupervisorPipe, say
from services.trainer.worker.preparation import prepare_apart
from shared.child import die_with_parent
from shared.errors import CannotTrain, FailureKind
from shared.files import is_disk_full

LOCK_SECONDS = 10.0  # a killed worker's GPU context may take a moment to disappear
OURS = str(Path(__file__).parents[2])  # services/: traceback lines in here are in our own code


def main(arguments: list[str]) -> int:
    """Train as the specification says, and report how it ended; return the exit status."""
    if len(arguments) != 1:
        sys.exit("usage: python -m services.trainer.worker SPEC.json")
    if not die_with_parent():
        say("PR_SET_PDEATHSIG is refused here; the end of stdin must do")
    pipe = SupervisorPipe()
    try:
        spec = Spec.model_validate_json(Path(arguments[0]).read_bytes())
        with_lock(spec.lock_file)
        run_worker(spec, pipe)
    except CannotTrain as failure:
        report(pipe, failure)
    except ValidationError as error:
        report(pipe, CannotTrain("internal", f"The specification is wrong: {error}"))
    except Exception as error:  # noqa: BLE001  # the supervisor must learn why, whatever it is
        say(traceback.format_exc())
        report(pipe, classify(error))
    return 0


def run_worker(spec: Spec, pipe: SupervisorPipe) -> None:
    """Make the plan, wait for `go`, and train.

    torch is imported in here, after the environment variables are set.
    """
    began = time.monotonic()
    if spec.quantize == "none":
        leave_out_quantizer()
    import torch

    from services.model.template import Chat

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    check_inputs(spec)
    if spec.plan is None:  # later workers of the job meet the same base and rows
        prepare_apart(spec)
    chat = Chat(spec.base_dir, spec.clock, spec.chat_template)
    material = make_plan(spec, chat, pipe)
    if material is None:
        return
    pipe.wait_for_go()
    from services.model.refusal import CONFUSED
    from services.trainer.worker import micro_batches

    try:
        start_training(spec, pipe, material, chat, began)
    except (*CONFUSED, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise refused_if_confused(error, spec) from error
        final = not micro_batches.may_be_halved(material, spec.micro_tokens)
        why = f"Memory ran out at micro_tokens {spec.micro_tokens}: {error}"
        raise CannotTrain("memory", why[:2000], final=final) from error


def refused_if_confused(error: Exception, spec: Spec) -> Exception:
    """Return the refusal of a base in whose own modules an error arose, or the error as it is."""
    from services.model.network import model_type
    from services.model.refusal import CONFUSED, module_at, refusal_of

    if not isinstance(error, CONFUSED) or module_at(error) is None:
        return error
    return refusal_of(error, "trained", model_type(spec.base_dir))


def check_inputs(spec: Spec) -> None:
    """Remove files that a killed worker left, and check that the base can be trained here.

    Raises CannotTrain (base).
    """
    from services.model.device import total_memory
    from services.trainer import checkpoint
    from services.trainer.worker import base_check

    for directory in (spec.checkpoint_dir, spec.snapshot.directory):
        checkpoint.sweep_half_written(directory)
    memory, limit = total_memory(spec.device), spec.memory_limit
    base_check.check_base(spec.base_dir, spec.dtype, memory, quantize=spec.quantize, limit=limit)


def make_plan(spec: Spec, chat: "Chat", pipe: SupervisorPipe) -> "Material | None":
    """Make the plan, or load the job's own, and report it to the supervisor.

    Returns None if there is nothing to train, which is reported as well.
    """
    from services.trainer.worker.data.known import AllRowsKnown
    from services.trainer.worker.data.plan import build_plan, load_plan

    began = time.monotonic()
    try:
        material = build_plan(spec, chat) if spec.plan is None else load_plan(spec, chat)
    except AllRowsKnown as known:
        say(str(known))
        pipe.emit(NothingNew(message=str(known), version=known.version))
        return None
    seconds = time.monotonic() - began
    made = material.plan
    check_start(spec, len(made.steps))
    pipe.emit(material.event(spec.plan_out if spec.plan is None else spec.plan, seconds))
    say(
        f"plan {material.sha256[:12]}: {len(made.steps)} steps, "
        f"{made.trained_tokens / made.tokens:.0%} of {made.tokens} tokens trained"
    )
    return material


def start_training(
    spec: Spec, pipe: SupervisorPipe, material: "Material", chat: "Chat", began: float
) -> None:
    """Load base, adapter and checkpoint, then train. `began`: monotonic seconds of the start."""
    from services.trainer.worker import loop, saving
    from services.trainer.worker.optimizer import make_optimizer
    from services.trainer.worker.snapshot.snapshot import Snapshots

    network = load_network(spec, material.plan.settings.seed)
    optimizer = make_optimizer(network, material.plan.settings)
    saving.restore_checkpoint(spec, material, network, optimizer)
    snapshots = Snapshots(spec, material, network, chat)
    pipe.emit(ready(network, time.monotonic() - began))
    say(
        f"training on {network.device.type} from step {spec.start.position}, "
        f"attention: {network.way.value}"
    )
    pipe.begin()
    end = loop.train(spec, material, network, optimizer, snapshots, pipe)
    say(f"{end.reason or 'done'} at step {end.checkpoint.position}")
    pipe.emit(end)


def load_network(spec: Spec, seed: int) -> "Network":
    """Load the base with a new adapter; write to the job's log what is done differently."""
    from services.model.kernels import Proofs
    from services.model.network import Network
    from services.trainer import checkpoint

    network = Network(
        spec.base_dir,
        spec.dtype,
        spec.lora,
        seed,
        quantize=spec.quantize,
        recompute=spec.gradient_checkpointing,
        proofs=Proofs(spec.proofs, (spec.base_root, spec.dtype, spec.quantize)),
        device=spec.device,
        known=checkpoint.adapter_names(spec.checkpoint) if spec.checkpoint else (),
    )
    for left_out in network.left_out:
        say(f"without an adapter: {left_out}")
    for note in network.notes:
        say(note)
    return network


def ready(network: "Network", seconds: float) -> WorkerReady:
    """Return the event that reports how this model is trained here."""
    return WorkerReady(
        seconds=seconds,
        parameters=sum(p.numel() for p in network.adapter.values()),
        base_parameters=sum(p.numel() for p in network.base.parameters()),
        rss_bytes=own_resident_bytes(),
        device=network.device.type,
        attention=network.way.value,
        notes=tuple(network.notes),
    )


def check_start(spec: Spec, steps: int) -> None:
    """Check that training can start where the specification says.

    Raises CannotTrain: `data` if that is beyond the plan, `checkpoint` if a checkpoint is missing.
    """
    if spec.start.position > steps:
        raise CannotTrain(
            "data", f"The plan has {steps} steps; cannot start at {spec.start.position}."
        )
    if spec.checkpoint is None and (spec.start.position or spec.start.global_step):
        raise CannotTrain("checkpoint", "Only step 0 of a lineage starts without a checkpoint.")


def leave_out_quantizer() -> None:
    """Hide bitsandbytes from peft, which would spend seconds importing it where it is installed."""
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]


def with_lock(path: Path) -> None:
    """Take the lock and hold it until this process ends, by keeping its file open.

    Raises CannotTrain (internal) if another worker holds it for longer than LOCK_SECONDS.
    """
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
    """Return an unexpected error as `memory`, `disk` or `internal`, with its place in our code."""
    kind: FailureKind = "internal"
    text = str(error) or type(error).__name__
    if is_out_of_memory(error):
        kind = "memory"
    elif isinstance(error, OSError) and is_disk_full(error):
        kind = "disk"
    ours = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(OURS)]
    at = f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""
    return CannotTrain(kind, f"{type(error).__name__}: {text[:2000]}{at}")


def report(pipe: SupervisorPipe, failure: CannotTrain) -> None:
    """Write a failure to the job's log and send it to the supervisor."""
    say(f"failed ({failure.kind}): {failure.message}")
    pipe.emit(
        TrainingFailed(
            kind=failure.kind,
            message=failure.message,
            suspect=failure.suspect,
            final=failure.final,
            example=failure.example,
        )
    )


def own_resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    with suppress(OSError):
        sys.stderr.flush()
    # Skip the interpreter's shutdown: threads of native libraries may hang in it.
    os._exit(code)
