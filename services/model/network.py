"""The frozen base with its LoRA adapter: its loss, its predictions and its adapter's state."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from services.model import attention, kernels
from services.model.attention import Batch, pack
from services.model.device import choose_device
from services.model.kernels import Proofs, Way, sequence
from services.model.layers import decoder_of
from services.model.lora import adapter_parameters, initialize, with_adapter
from services.model.loss import FrozenHeadLoss, most_likely, plain_loss
from services.model.refusal import refusing
from services.model.targets import choose_targets, path_of
from shared.errors import CannotTrain
from shared.formats.adapter import AdapterShape, Tensors
from shared.memory_estimate import HEAD_CHUNK_TOKENS


class Network:
    """A base and its adapter on one device.

    `lean` says that the head is a plain frozen matrix, `way` how attention runs over the sequences
    of a row (see kernels.py), and `notes`, for the job's log, what is done differently than usual.
    `left_out`: the layers that all-linear leaves without an adapter; `is_named` says that layers
    were asked for by name instead. `known`: the names of the tensors in the checkpoint that is
    trained on.
    """

    def __init__(
        self,
        base_dir: Path,
        dtype: str,
        lora: AdapterShape,
        seed: int,
        *,
        quantize: str = "none",
        recompute: bool = False,
        proofs: Proofs | None = None,
        device: str = "auto",
        known: Iterable[str] = (),
    ) -> None:
        self.device = choose_device(device)
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory before writing it, so new tensors need not be filled first.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        attention.register()
        # People read the job's log, and progress bars would clutter it.
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.type = model_type(base_dir)
        with refusing("loaded", self.type):
            base: Any = AutoModelForCausalLM.from_pretrained(
                str(base_dir),
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                **(nf4(dtype, self.device) if quantize == "nf4" else {}),
            )
            # Answers must be greedy: Qwen's own settings, for example, penalize repeated words.
            base.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
            # Not always sdpa, which Gemma 2, for example, lacks; used where masks are needed.
            self.native: str = base.config._attn_implementation
            if quantize == "none":  # a quantised base is on the device already and must not move
                base.to(self.device)
            else:
                keep_trainable(base)
        with refusing("given an adapter", self.type):
            chosen = choose_targets(base, lora, known)
            self.left_out, self.is_named = chosen.left_out, lora.targets != "all-linear"
            self.model: Any = with_adapter(base, lora, chosen)
            if recompute:
                base.activation_checkpointing_enable({"use_reentrant": False})
        self.base: Any = self.model.get_base_model()
        self.adapter = adapter_parameters(self.model)
        initialize(self.adapter, seed)
        self.model.train()
        self.lean, self.way = False, Way.ALONE
        self.notes: list[str] = []
        self.check(proofs or Proofs())

    @property
    def packs(self) -> bool:
        """True if several sequences go through the model at once."""
        return self.way is not Way.ALONE

    def take(self, way: Way) -> None:
        """Let attention run this way from now on. Raises one of UNFIT if the model refuses it."""
        wanted = self.native if way is Way.ALONE else attention.NAME
        if self.base.config._attn_implementation != wanted:
            self.base.set_attn_implementation(wanted)
        self.way = way

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the hidden states [T, d] after the last layer."""
        body = decoder_of(self.base)
        states = [
            body(**part, attention_mask=None, use_cache=False).last_hidden_state[0]
            for part, _ in self.passes(batch)
        ]
        return torch.cat(states)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits [n, V] at the labels, from the model's own head."""
        found = []
        for part, sources in self.passes(batch):
            logits = self.base(
                **part, attention_mask=None, use_cache=False, logits_to_keep=sources
            ).logits[0]
            # Not every model knows `logits_to_keep`.
            found.append(logits if len(logits) == len(sources) else logits[sources])
        return torch.cat(found)

    def passes(self, batch: Batch) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """Yield (arguments of the model, sources) of each pass.

        There is one pass for all sequences, or one for each.
        """
        if self.packs:
            whole = {"input_ids": batch.ids, "position_ids": batch.positions}
            shared = {"shared": batch.shared} if batch.shared else {}
            fused = {"ends": batch.ends} if self.way is Way.VARLEN else {}
            yield {**whole, "lengths": batch.lengths, **shared, **fused}, batch.sources
            return
        start = 0
        # Cut by counts that the host knows: for a mask on the device it would have to wait.
        own = torch.split(batch.sources, batch.sequence_labels)
        for length, sources in zip(batch.lengths, own, strict=True):
            here = slice(start, start + length)
            part = {"input_ids": batch.ids[:, here], "position_ids": batch.positions[:, here]}
            yield part, sources - start
            start += length

    def loss(self, batch: Batch, noise_alpha: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (sum over the labels, with a gradient; loss of each label [n] float32).

        The labels' factors are in the sum, not in the losses.
        `noise_alpha`: strength of NEFTune's noise; 0 is none.
        """
        with self.noise(batch, noise_alpha):
            return self.exact_loss(batch)

    @contextmanager
    def noise(self, batch: Batch, alpha: float) -> Iterator[None]:
        """Add NEFTune's noise (arXiv 2310.05914) to the embeddings inside.

        It is uniform, up to alpha / sqrt(L * d) for a sequence of L tokens and embeddings of size
        d, and drawn from torch's generator, which the training loop seeds for each micro-batch.
        """
        if alpha == 0:
            yield
            return
        lengths = batch.ends.diff()
        scale = lengths.float().rsqrt() * alpha
        # Without the output's size, torch would have to ask the device for it.
        tokens = batch.ids.shape[1]
        sizes = torch.repeat_interleave(scale, lengths, output_size=tokens)
        passed = 0

        def add(_: object, __: object, out: torch.Tensor) -> torch.Tensor:
            nonlocal passed
            size = sizes[passed : passed + out.shape[1], None] / out.shape[-1] ** 0.5
            passed += out.shape[1]
            noisy: torch.Tensor = out + (torch.rand_like(out) * 2 - 1) * size.to(out.dtype)
            return noisy

        hook = self.base.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def exact_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `loss` does, without adding noise."""
        if not self.lean:
            return plain_loss(self.logits(batch), batch.targets, batch.factors)
        states = self.hidden(batch).index_select(0, batch.sources)
        head = self.base.get_output_embeddings().weight
        total, losses = FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
            states, head, batch.targets, batch.factors
        )
        return total, losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (loss, most likely token, its loss) at the labels; each [n], losses float32."""
        if not self.lean:
            return most_likely(self.logits(batch), batch.targets)
        states = self.hidden(batch).index_select(0, batch.sources)
        head = self.base.get_output_embeddings().weight
        parts = []
        for start in range(0, len(states), HEAD_CHUNK_TOKENS):
            here = slice(start, start + HEAD_CHUNK_TOKENS)
            parts.append(most_likely(states[here] @ head.t(), batch.targets[here]))
        losses, best, best_losses = (torch.cat(part) for part in zip(*parts, strict=True))
        return losses, best, best_losses

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Switch dropout and gradients off inside."""
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Measure inside with masked attention, which padded batches and a cache need."""
        self.base.set_attn_implementation(self.native)
        try:
            with self.measuring():
                yield
        finally:
            if self.packs:
                self.base.set_attn_implementation(attention.NAME)

    def check(self, proofs: Proofs) -> None:
        """Try out on this very model what the training loop relies on, and set `way` and `lean`.

        Raises CannotTrain (base) if the model cannot be trained here.
        """
        with refusing("trained", self.type, ",".join(self.adapted())), self.measuring():
            vocabulary = int(self.base.config.get_text_config().vocab_size)
            kernels.choose_way(self, proofs)
            check_looks_back(self, vocabulary)
            self.lean = self.plain_head(pack([sequence(7, vocabulary, 3)], self.device))
        if not self.lean:
            self.notes.append(
                "this model's head is not a plain matrix: using the ordinary, slower cross-entropy"
            )

    def adapted(self) -> list[str]:
        """Return the ends of the names of all layers that have an adapter."""
        paths = {name.removesuffix(".base_layer") for name in map(path_of, self.adapter)}
        return sorted({path.rpartition(".")[2] for path in paths})

    def plain_head(self, batch: Batch) -> bool:
        """Return whether logits are hidden states times a frozen matrix and nothing else.

        It is tested from outside: the head's input must be the hidden states, and its output must
        be the model's, even when replaced by numbers that any cap or scale would change.
        """
        head: Any = self.base.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            return False
        bias: torch.Tensor | None = head.bias
        if bias is not None or head.weight.requires_grad:
            return False
        given: list[torch.Tensor] = []
        states = self.hidden(batch).index_select(0, batch.sources)
        numbers = torch.linspace(-999, 999, len(states) * len(head.weight), device=self.device)
        numbers = numbers.to(states.dtype).view(len(states), len(head.weight))

        def replace(_: object, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
            given.append(inputs[0])
            return numbers.view(out.shape) if out.numel() == numbers.numel() else out

        hook = head.register_forward_hook(replace)
        try:
            found = self.logits(batch)
        finally:
            hook.remove()
        inputs = given[0].view(-1, given[0].shape[-1])
        return torch.equal(found, numbers) and torch.equal(inputs, states)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the adapter's tensors by the names under which peft stores them, float32."""
        return {n: p.detach().cpu().numpy().copy() for n, p in self.adapter.items()}

    def restore(self, tensors: Tensors) -> None:
        """Set the adapter to these tensors.

        Raises CannotTrain (checkpoint) unless names and shapes are exactly those of the adapter.
        """
        same = set(tensors) == set(self.adapter) and all(
            tuple(tensors[n].shape) == tuple(p.shape) for n, p in self.adapter.items()
        )
        if not same:
            raise CannotTrain(
                "checkpoint", "The adapter in the checkpoint does not fit this base and LoRA shape."
            )
        with torch.no_grad():
            for name, parameter in self.adapter.items():
                parameter.copy_(torch.from_numpy(tensors[name]))


def model_type(base_dir: Path) -> str:
    """Return the model type that a base's config.json names, or `unknown`."""
    try:
        found, _ = PretrainedConfig.get_config_dict(str(base_dir))
    except (OSError, ValueError):
        return "unknown"
    return str(found.get("model_type", "unknown"))


def check_looks_back(network: Network, vocabulary: int) -> None:
    """Check that what comes later in a text changes nothing before it.

    Raises CannotTrain (base): a model that reads ahead would learn to copy its answers.
    """
    one, two = (pack([sequence(9, vocabulary, 3)], network.device) for _ in range(2))
    two.ids[0, -1] = (two.ids[0, -1] + 5) % vocabulary
    # Numbers that are none are the same ones both times: they are for the training to report.
    before, after = (torch.nan_to_num(network.hidden(batch)[:-1]) for batch in (one, two))
    if kernels.differing_states(after, before) is not None:
        raise CannotTrain(
            "base",
            f"The base (model type {network.type}) reads ahead: a later word changes what it makes "
            "of earlier ones, as in BERT. Training needs a causal language model, such as Llama or "
            "Qwen: duramen base add DIR",
        )


def nf4(dtype: str, device: torch.device) -> dict[str, Any]:
    """Return the arguments that load the layers' matrices in four bits (QLoRA, arXiv 2305.14314).

    Embeddings, norms and head stay as they are. Raises CannotTrain (base) without bitsandbytes.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise CannotTrain(
            "base",
            "This lineage is quantized to nf4, which needs a package. Type: pip install "
            "bitsandbytes",
        ) from (error)
    config = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_trainable(base: Any) -> None:
    """Keep bitsandbytes from repacking matrices for inference.

    It does so on a CPU with AVX512-BF16 at the model's first use, and no gradient flows through a
    repacked matrix.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
