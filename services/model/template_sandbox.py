"""Chat templates are programs of strangers: they run in a child, with little memory and time.

`python -m services.model.template_sandbox` speaks JSON lines: requests on stdin, answers on stdout.
Jinja's sandbox keeps a template from files and objects, not from memory or time: one multiplied
string takes gigabytes, two nested loops take for ever. The child can write no file, may map
`MEMORY_BYTES` beyond what it had at its start, and gets `cpu_seconds` for each request; the kernel
ends it otherwise. Time is that of the processor, so a busy machine changes no outcome.
"""

import atexit
import functools
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from shared.child import Child, ChildEnded, answer_lines, limit_memory
from shared.errors import CannotTrain

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 10


class TemplateRefuses(Exception):
    """The template raised an error for this conversation; the message is the template's."""


@dataclass(frozen=True)
class Template:
    """A template with all that it may see besides the conversation; `clock`: ISO, stands still."""

    text: str
    specials: dict[str, Any]  # bos_token and so on
    clock: str


@dataclass(frozen=True)
class Rendering:
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
        self.child = Child("services.model.template_sandbox")

    def render(self, template: Template, wishes: Sequence[Rendering]) -> list[Rendered | str]:
        """Each as rendered, or in the template's own words why not. Raises Failure (base)."""
        request = {"template": asdict(template), "wishes": [asdict(w) for w in wishes]}
        try:
            reply = self.child.ask(request, self.cpu_seconds)
        except ChildEnded as ended:
            raise self.ended(ended.status) from ended
        if "failed" in reply:
            raise CannotTrain("template", f"The chat template cannot be used: {reply['failed']}")
        return [r if isinstance(r, str) else Rendered(r[0], r[1]) for r in reply["rendered"]]

    def ended(self, status: int) -> CannotTrain:
        if status == -signal.SIGXCPU:
            why = f"it takes more than {self.cpu_seconds} seconds of processor time for one row"
        else:
            why = f"the process that renders it ended with status {status}"
        return CannotTrain("template", f"The chat template cannot be used: {why}.")

    def close(self) -> None:
        """End the child; the next rendering starts another."""
        self.child.close()


@functools.cache
def renderer() -> Renderer:
    """One for this process: the child knows no template before it is told one."""
    made = Renderer()
    atexit.register(made.close)
    return made


# ---- the child -----------------------------------------------------------------------------------


def serve_renderings() -> None:
    """Answer until stdin ends."""
    from transformers.utils import chat_template_utils  # slow, and only the child needs it

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        template = Template(**request["template"])
        wishes = [Rendering(**w) for w in request["wishes"]]
        try:
            compiled = chat_template_utils._compile_jinja_template(template.text)
            # transformers turns a function given as an argument into a string; in the globals of
            # the compiled template, which it keeps by the template's text, it stays one.
            compiled.globals["strftime_now"] = datetime.fromisoformat(template.clock).strftime
            return {"rendered": [render(template, w) for w in wishes]}
        except MemoryError:
            return {"failed": "it asks for too much memory."}
        except Exception as error:  # noqa: BLE001  # a template may raise anything
            return {"failed": f"{type(error).__name__}: {error}"[:1000]}

    limit_memory(MEMORY_BYTES, may_write=False)
    answer_lines(answer)


def render(template: Template, wish: Rendering) -> tuple[str, Any] | str:
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


if __name__ == "__main__":
    serve_renderings()
    sys.stdout.flush()
    os._exit(0)
