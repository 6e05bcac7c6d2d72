"""Runs chat templates, which are strangers' programs, in a child with little memory and time.

`python -m services.model.template_sandbox` reads requests as JSON lines on stdin and answers on
stdout. Jinja's sandbox keeps a template from files and objects, but does not limit memory or time:
one multiplied string takes gigabytes, two nested loops may never end. The child can write no file,
may map `MEMORY_BYTES` beyond what it had at its start, and gets `cpu_seconds` for each request; the
kernel ends it otherwise. Time is processor time, so a busy machine does not change the outcome.
"""

import atexit
import functools
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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
    """A template and all that it may see besides the conversation. `clock`: a fixed ISO time."""

    text: str
    specials: dict[str, Any]  # bos_token and so on
    clock: str


@dataclass(frozen=True)
class Rendering:
    """A request for one rendering. `prompt`: it ends where the assistant begins to speak.

    `options`: what the row itself tells the template, such as `enable_thinking`.
    """

    messages: list[dict[str, Any]]
    prompt: bool = False
    tools: list[dict[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rendered:
    """A rendered text.

    `marks`: the character ranges that the template marks as generated; None if it cannot mark any.
    """

    text: str
    marks: list[tuple[int, int]] | None = None


class Renderer:
    """The child process that renders, started when first needed and again after it ended."""

    def __init__(self, cpu_seconds: int = CPU_SECONDS) -> None:
        self.cpu_seconds = cpu_seconds
        self.child = Child("services.model.template_sandbox", environment={"HF_HUB_OFFLINE": "1"})

    def render(self, template: Template, wishes: Sequence[Rendering]) -> list[Rendered | str]:
        """Return each text as rendered, or the template's own words why it refused.

        Raises CannotTrain (template) if the template cannot be used at all.
        """
        request = {"template": asdict(template), "wishes": [asdict(w) for w in wishes]}
        try:
            reply = self.child.ask(request, self.cpu_seconds)
        except ChildEnded as ended:
            raise self.ended(ended.status) from ended
        if "failed" in reply:
            raise CannotTrain("template", f"The chat template cannot be used: {reply['failed']}")
        return [r if isinstance(r, str) else Rendered(r[0], r[1]) for r in reply["rendered"]]

    def ended(self, status: int) -> CannotTrain:
        """Return the error for a child that ended with this status."""
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
    """Return the one renderer of this process; each request brings its own template."""
    made = Renderer()
    atexit.register(made.close)
    return made


# ---- the child -----------------------------------------------------------------------------------


def serve_renderings() -> None:
    """Answer requests until stdin ends; this runs in the child."""
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
    """Return (text, ranges marked as generated or None), or the reason why the template refused."""
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
            **{**wish.options, **template.specials},
        )
    except jinja2.TemplateSyntaxError:
        raise
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        return str(error) or type(error).__name__
    return texts[0], ranges[0] if marks else None


def marks_generation(template: str) -> bool:
    """Return whether the template itself marks what the assistant generates."""
    flat = template.replace("{%-", "{%").replace("-%}", "%}").replace(" ", "")
    return "{%generation%}" in flat


if __name__ == "__main__":
    serve_renderings()
    sys.stdout.flush()
    os._exit(0)
