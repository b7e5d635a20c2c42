"""Charts of a run as SVG text that follows the page's colours. Draws what it is given; asks nobody."""

import io
from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

# One colour per series, told apart in light and dark and by colour-blind readers (Okabe-Ito).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c", "#f0e442")
_INK = "#7a8594"


def chart(
    series: Mapping[str, Points],
    unit: str,
    kind: Literal["lines", "stacked"] = "lines",
) -> str:
    """Return an SVG of ``series`` (name -> points of seconds since the start, and value).

    ``stacked`` adds the series up; they must then share their times.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "load-report", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        if kind == "stacked":
            times = [t for t, _ in next(iter(series.values()))]
            axes.stackplot(
                times,
                *([v for _, v in points] for points in series.values()),
                labels=list(series),
                colors=_COLOURS,
            )
        else:
            for (name, points), colour in zip(series.items(), _COLOURS * 4, strict=False):
                axes.plot(
                    [t for t, _ in points], [v for _, v in points], label=name, color=colour, linewidth=1.6
                )
        axes.set_xlabel("seconds since the start", color=_INK, fontsize=9)
        axes.set_ylabel(unit, color=_INK, fontsize=9)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.margins(x=0)
        axes.tick_params(colors=_INK, labelsize=9)
        axes.grid(color=_INK, alpha=0.2, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_INK)
        if len(series) > 1:
            figure.legend(
                loc="outside upper left",
                ncols=8,
                frameon=False,
                fontsize=9,
                labelcolor=_INK,
                handlelength=1.2,
            )
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]
