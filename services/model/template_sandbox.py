"""Chat templates are programs of strangers: they run in a child, with little memory and time.

`python -m services.model.template_sandbox SECONDS` speaks JSON lines: requests on stdin, answers on
stdout.
Jinja's sandbox keeps a template from files and objects, not from memory or time: one multiplied
string takes gigabytes, two nested loops take for ever. The child can write no file, may map
`MEMORY_BYTES` beyond what it had at its start, and gets SECONDS for each request; the kernel
ends it otherwise. Time is that of the processor, so a busy machine changes no outcome.
"""

import atexit
import functools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.errors import CannotTrain

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 10
ROOT = Path(__file__).parents[2]


class TemplateRefuses(Exception):
    """The template raised an error for this conversation; the message is the template's."""


@dataclass(frozen=True)
class Template:
    """A template with all that it may see besides the conversation; `clock`: ISO, stands still."""

    text: str
    specials: dict[str, Any]  # bos_token and so on
    clock: str


@dataclass(frozen=True)
class Wish:
    """One rendering. `prompt`: it ends where the assistant begins to speak."""

    messages: list[dict[str, Any]]
    prompt: bool = False
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Rendered:
    """`marks`: character ranges that the template marks as generated, None if it marks none."""

    text: str
    marks: list[tuple[int, int]] | None = None


class Renderer:
    """The child, started when first needed and again after it was ended."""

    def __init__(self, cpu_seconds: int = CPU_SECONDS) -> None:
        self.cpu_seconds = cpu_seconds
        self.child: subprocess.Popen[bytes] | None = None

    def render(self, template: Template, wishes: Sequence[Wish]) -> list[Rendered | str]:
        """Each as rendered, or in the template's own words why not. Raises Failure (base)."""
        request = {"template": asdict(template), "wishes": [asdict(w) for w in wishes]}
        child = self.started()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise self.ended(child)
        reply = json.loads(line)
        if "failed" in reply:
            raise CannotTrain("template", f"The chat template cannot be used: {reply['failed']}")
        return [r if isinstance(r, str) else Rendered(r[0], r[1]) for r in reply["rendered"]]

    def started(self) -> subprocess.Popen[bytes]:
        if self.child is None:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "services.model.template_sandbox", str(self.cpu_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
        return self.child

    def ended(self, child: subprocess.Popen[bytes]) -> CannotTrain:
        self.close()
        if child.returncode == -signal.SIGXCPU:
            why = f"it takes more than {self.cpu_seconds} seconds of processor time for one row"
        else:
            why = f"the process that renders it ended with status {child.returncode}"
        return CannotTrain("template", f"The chat template cannot be used: {why}.")

    def close(self) -> None:
        """End the child; the next rendering starts another."""
        child, self.child = self.child, None
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.close()
            child.stdout.close()
            child.wait()


@functools.cache
def renderer() -> Renderer:
    """One for this process: the child knows no template before it is told one."""
    made = Renderer()
    atexit.register(made.close)
    return made


# ---- the child -----------------------------------------------------------------------------------


def serve(cpu_seconds: int) -> None:
    from transformers.utils import chat_template_utils  # slow, and only the child needs it

    limit_memory()
    for line in sys.stdin.buffer:
        limit_time(cpu_seconds)
        request = json.loads(line)
        template = Template(**request["template"])
        wishes = [Wish(**w) for w in request["wishes"]]
        try:
            compiled = chat_template_utils._compile_jinja_template(template.text)
            # transformers turns a function given as an argument into a string; in the globals of
            # the compiled template, which it keeps by the template's text, it stays one.
            compiled.globals["strftime_now"] = datetime.fromisoformat(template.clock).strftime
            reply: dict[str, Any] = {"rendered": [render(template, w) for w in wishes]}
        except MemoryError:
            reply = {"failed": "it asks for too much memory."}
        except Exception as error:  # noqa: BLE001  # a template may raise anything
            reply = {"failed": f"{type(error).__name__}: {error}"[:1000]}
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


def render(template: Template, wish: Wish) -> tuple[str, Any] | str:
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    marks = marks_generation(template.text)
    rendered: Any = render_jinja_template  # annotated as if it returned a string
    try:
        texts, ranges = rendered(
            conversations=[wish.messages],
            tools=wish.tools,
            chat_template=template.text,
            add_generation_prompt=wish.prompt,
            return_assistant_tokens_mask=marks,
            **template.specials,
        )
    except jinja2.TemplateSyntaxError:
        raise
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        return str(error) or type(error).__name__
    return texts[0], ranges[0] if marks else None


def marks_generation(template: str) -> bool:
    """Whether the template says itself what the assistant generates."""
    flat = template.replace("{%-", "{%").replace("-%}", "%}").replace(" ", "")
    return "{%generation%}" in flat


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (soft, hard))


def limit_time(seconds: int) -> None:
    """The kernel counts whole seconds, from the start of the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
