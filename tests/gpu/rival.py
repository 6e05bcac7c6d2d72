"""transformers' Trainer on the same base and rows: `python -m tests.gpu.rival BASE DATA N`.

The same rows in each step as a worker has, in bfloat16: laid end to end as we do, with its own
attention for that, and padded. Prints a JSON line each: its tokens a second behind the first steps.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tests.gpu.steps import RANK, WARM_STEPS

STEPS = 12
ALL = "all-linear"


class Clock(TrainerCallback):
    """Notes when each step ended, the card's work included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def rows_of(tokenizer: Any, data: Path) -> list[dict[str, list[int]]]:
    """All conversations; labels behind the beginning of the answer alone."""
    found = []
    for line in data.read_text().splitlines():
        messages = json.loads(line)["messages"]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        before = tokenizer.apply_chat_template(
            messages[:1], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(whole)["input_ids"]
        asked = len(tokenizer(before)["input_ids"])
        found.append({"input_ids": ids, "labels": [-100] * asked + ids[asked:]})
    return found


def batches(rows: list[dict[str, list[int]]], tokens: int) -> list[list[dict[str, list[int]]]]:
    parts: list[list[dict[str, list[int]]]] = [[]]
    for row in rows:
        if sum(len(r["input_ids"]) for r in parts[-1]) + len(row["input_ids"]) > tokens:
            parts.append([])
        parts[-1].append(row)
    return parts[:STEPS]


def main(base: Path, data: Path, tokens: int) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(base))
    steps = batches(rows_of(tokenizer, data), tokens)
    flatten: Any = DataCollatorWithFlattening()  # type: ignore[no-untyped-call]
    sys.stdin.readline()  # until here it holds nothing of the card
    for name, collate in (("packed alike", flatten), ("padded", padded)):
        seconds, seen = trained(base, steps, collate, data.parent / "rival")
        found = {"name": name, "tokens_a_second": seen / seconds}
        print(json.dumps({**found, "reserved": torch.cuda.max_memory_reserved()}), flush=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Fill rows up to the longest; it is masked, and no label."""
    width = max(len(r["input_ids"]) for r in rows)
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    whole = [{**r, "attention_mask": [1] * len(r["input_ids"])} for r in rows]
    return {
        name: torch.tensor([r[name] + [value] * (width - len(r[name])) for r in whole])
        for name, value in fill.items()
    }


def trained(
    base: Path, steps: list[list[dict[str, list[int]]]], collate: Any, folder: Path
) -> tuple[float, int]:
    """Train all steps; (seconds, tokens without padding) behind the first ones."""
    plain: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16)
    lora = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=ALL)
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=len(steps),
        bf16=True,
        learning_rate=1e-4,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )
    trainer = Trainer(
        model=get_peft_model(plain, lora),
        args=arguments,
        train_dataset=steps,  # one item is all rows of a step
        data_collator=lambda items: collate(items[0]),
        callbacks=[clock],
    )
    trainer.train()
    seen = sum(len(r["input_ids"]) for part in steps[WARM_STEPS:] for r in part)
    return clock.ends[-1] - clock.ends[WARM_STEPS - 1], seen


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
