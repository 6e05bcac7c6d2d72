"""Curves over the steps of training, drawn with characters."""

from rich.text import Text

from services.ctl import cli
from services.ctl.views.comparison import SPLIT_NAMES
from shared.answers.evolution import CurvePoint
from shared.protocol.names import Split

# Sign and colour of a line: they can be told apart on a terminal without colours, too.
DRAWN: dict[Split, tuple[str, str]] = {
    "trained": ("braille", "green"),
    "heldout": ("o", "cyan"),
    "eval": ("x", "magenta"),
    "earlier": ("·", "red"),
}
PLOT_LINES = 13
WIDEST = 120  # columns: wider plots of a dozen points are no clearer


def width() -> int:
    return min(cli.console.width, WIDEST)


def plot(snapshots: list[CurvePoint], value: str, title: str) -> None:
    """Plot a line for each split, drawn with a sign of its own.

    On the axis are the snapshots, evenly spaced: they come at steps 1, 2, 4, 8, …, which would
    crowd at the left of a true scale.
    """
    import plotext  # takes a tenth of a second, and only the curves need it

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width(), PLOT_LINES)
    figure.label("step")
    figure.legend(active=False)  # it would hide what is drawn below it
    legend: list[tuple[str, str]] = [(f"{title}  ", "bold")]
    for split, (sign, colour) in DRAWN.items():
        line = curve(snapshots, split, value)
        if line:
            places, heights = [place for place, _ in line], [height for _, height in line]
            marker = plotext.marker(sign, colour)
            figure.draw(figure.signal(places, heights, marker=marker).lines())
            legend.append(
                (f" {'⠒⠒' if sign == 'braille' else sign * 2} {SPLIT_NAMES[split]}", colour)
            )
    steps = [snapshot.global_step for snapshot in snapshots]
    labels = min(len(steps), width() // 10)
    last = len(steps) - 1
    shown = sorted({round(n * last / max(labels - 1, 1)) for n in range(labels)})
    figure.ruler("x").ticks(shown, [str(steps[place]) for place in shown])
    if value == "exact_match":
        figure.ruler("y").lim(0, 1)
    cli.console.print(Text.assemble(*legend))
    cli.console.print(Text.from_ansi(figure.build().string()))


def curve(snapshots: list[CurvePoint], split: Split, value: str) -> list[tuple[int, float]]:
    """Return (place on the axis, value) of the snapshots that know one."""
    found = []
    for place, snapshot in enumerate(snapshots):
        at = snapshot.splits.get(split)
        known = getattr(at.known, value) if at else None
        if known is not None:
            found.append((place, float(known)))
    return found
