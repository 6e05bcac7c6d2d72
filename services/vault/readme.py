"""README.md of a version: what it is, how to load it and how to get it back.

It names neither a time nor a host.
"""

import json
import re

from services.vault.edition import Edition
from shared.protocol.records import CheckpointRef

TEXT = """# {lineage} {name}

A LoRA adapter, trained on and on over {segments} segment(s), {global_step} optimizer steps in all.

| | |
|---|---|
| last file | {file} |
| dataset | `{dataset}` |
| job | `{job}` ({outcome}) |
| base | `{base}` |
| ledger sequence | {sequence} |
| checkpoint | `{checkpoint}` |

- `adapter/`: the adapter, as peft reads it. `training/`: optimizer state and position, so that
  training can go on from here exactly. `evolution/`: what the model answered to watched examples.
{own_template}\
- `MANIFEST.json`: every file with its SHA-256, and the segments whose replay gives these bytes.

## Get it back, with any S3 client
Set `ENDPOINT` to the address of the store or of the backup.

```
aws --endpoint-url $ENDPOINT s3 sync s3://duramen/{prefix} {name}
(cd {name} && sha256sum -c SHA256SUMS)
aws --endpoint-url $ENDPOINT s3 sync s3://duramen/bases/{base}/ base
(cd base && sha256sum -c SHA256SUMS)
```

or `duramen restore {name} --lineage {lineage} --to {name} --with-base`, which puts the base into
`{name}/base`.

## Load it
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "{name}/adapter")
```
"""


OWN_TEMPLATE = """\
- `tokenizer/`: the base's tokenizer with the chat template of this lineage, with which the adapter
  was trained.
"""


MEANINGFUL = re.compile(r"[|<\[`]")  # cells, HTML, links and code


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def render_readme(version: Edition, checkpoint: CheckpointRef) -> bytes:
    """Return README.md as a pure function of the ledger.

    The name of the file is quoted, because a user chose it, and its markup escaped.
    """
    return TEXT.format(
        lineage=version.lineage,
        name=version.name,
        segments=len(version.segments),
        global_step=version.close.head.global_step,
        file=MEANINGFUL.sub(_escape, json.dumps(version.file_name, ensure_ascii=True)),
        dataset=version.job.sha256,
        job=version.close.job,
        outcome=version.close.outcome,
        base=version.close.head.base_root,
        sequence=version.sequence,
        checkpoint=checkpoint.id,
        prefix=version.prefix,
        own_template=OWN_TEMPLATE if version.chat_template else "",
        tokenizer=f"{version.name}/tokenizer" if version.chat_template else "base",
    ).encode()
