"""The terminal of the command line, on which strangers' text can do nothing but be read."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from shared.foreign_text import plain


class PlainConsole(Console):
    """A console that makes all text plain as it is drawn, wherever it came from.

    It knows no markup and no names of emoji: in a file's name, they are a part of the name.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of what is drawn, those with text made plain."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(plain(segment.text), segment.style)
