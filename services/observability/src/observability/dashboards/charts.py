"""Charts as SVG text for light and dark pages. Draws only its arguments and reads no data source."""

import io
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

# One colour per series, distinguishable in light and dark and by colour-blind readers (Okabe-Ito, then Tol's muted
# colours).
_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c", "#44aa99", "#aa4499",
    "#999933", "#f0e442", "#6a5acd",
)  # fmt: skip
_INK = "#7a8594"
_FONT = 10.5
_WIDTH, _HEIGHT = 8.6, 2.7
_TICKS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600)
"""Candidate distances between two labels of a clock axis, in seconds."""
_STATE_COLOURS = {
    "none": "#009e73",
    "idle": "#7fcdb3",
    "working": "#009e73",
    "saturated": "#0072b2",
    "capacity": "#0072b2",
    "starting": "#f0e442",
    "warming": "#f0e442",
    "draining": "#56b4e9",
    "throttled": "#e69f00",
    "routing": "#e69f00",
    "execution": "#d55e00",
    "stuck": "#d55e00",
    "unreachable": "#b3261e",
}


def _style() -> AbstractContextManager[None]:
    """Set matplotlib to keep text as text (searchable and small) and to write the same bytes for the same chart."""
    return mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "llm-platform", "font.family": "sans-serif"}
    )


def chart(
    series: Mapping[str, Points],
    unit: str,
    kind: Literal["lines", "stacked"] = "lines",
    span: float | None = None,
    began: float | None = None,
) -> str:
    """Return an SVG of ``series`` (name -> points of seconds since the start, and value).

    A value of NaN is a gap: no line or area crosses it. ``stacked`` adds the series up; they must then have the same
    times. ``span`` is the end of the time axis. ``began`` is the start in epoch seconds and makes the axis a clock
    (UTC). Small values in seconds are shown as ms or µs.
    """
    factor, unit = _scaled(series, unit)
    with _style():
        figure, axes = _figure(_HEIGHT, legend=_legend_rows(series), below=_below(began))
        if kind == "stacked":
            times = [t for t, _ in next(iter(series.values()))]
            axes.stackplot(
                times,
                *([v * factor for _, v in points] for points in series.values()),
                labels=list(series),
                colors=_COLOURS,
            )
        else:
            for (name, points), colour in zip(series.items(), _COLOURS * 4, strict=False):
                axes.plot(
                    [t for t, _ in points],
                    [v * factor for _, v in points],
                    label=name,
                    color=colour,
                    linewidth=1.8,
                )
                lone = [(t, v * factor) for t, v in _alone(points)]
                axes.plot([t for t, _ in lone], [v for _, v in lone], "o", color=colour, markersize=3.5)
        axes.set_ylabel(unit, color=_INK, fontsize=_FONT)
        values = [v for points in series.values() for _, v in points if v == v]
        low, high = min(values, default=0.0), max(values, default=0.0)
        if low >= 0:
            axes.set_ylim(bottom=0.0, top=None if high > 0 else 1.0)
        axes.margins(x=0)
        axes.grid(color=_INK, alpha=0.2, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_INK)
        _time_axis(axes, span, began)
        _legend(figure)
        return _svg(figure)


def state_chart(
    states: Mapping[str, Sequence[tuple[float, str]]], span: float, step: float, began: float | None = None
) -> str:
    """Return an SVG with one row per name, coloured by its state at each time.

    Args:
        states: name -> (seconds since the start, state), in any order.
        span: end of the time axis, in seconds.
        step: duration of one point, in seconds.
        began: the start in epoch seconds; makes the time axis a clock (UTC).
    """
    names = sorted(states)
    with _style():
        figure, axes = _figure(
            0.8 + 0.42 * len(names),
            legend=1,
            below=_below(began),
            left=0.02 + 0.0105 * max(len(name) for name in names),
        )
        shown = sorted({state for points in states.values() for _, state in points})
        for row, name in enumerate(names):
            for state in shown:
                spans = [(at, step) for at, said in sorted(states[name]) if said == state]
                label = state if row == _first_row(states, names, state) else None
                axes.broken_barh(spans, (row - 0.35, 0.7), color=state_colour(state), label=label)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(range(len(names)), names)
        _time_axis(axes, span, began)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        _legend(figure)
        return _svg(figure)


def _figure(height: float, *, legend: int, below: float, left: float = 0.09) -> tuple[Figure, Axes]:
    """Return an empty chart with room for its labels. Margins are fixed, because measuring them takes four times as
    long.

    ``legend`` is in rows, ``height`` and ``below`` in inches, ``left`` a share of the width.
    """
    figure = Figure(figsize=(_WIDTH, height))
    above = 0.1 + 0.26 * legend
    axes = figure.add_axes((left, below / height, 0.985 - left, 1 - (below + above) / height))
    axes.tick_params(colors=_INK, labelsize=_FONT)
    return figure, axes


def _below(began: float | None) -> float:
    """Return the inches for the time axis: a clock needs no title."""
    return 0.44 if began is None else 0.28


def _legend_rows(series: Mapping[str, Points]) -> int:
    letters = sum(len(name) + 4 for name in series)
    return 1 + letters // 105


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    rows = 1 + sum(len(label) + 4 for label in labels) // 105
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        borderpad=0.0,
        ncols=max(1, -(-len(labels) // rows)),
        frameon=False,
        fontsize=_FONT,
        labelcolor=_INK,
        handlelength=1.1,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def _time_axis(axes: Axes, span: float | None, began: float | None) -> None:
    if span is not None:
        axes.set_xlim(0, span)
    if began is None:
        axes.set_xlabel("seconds since the start", color=_INK, fontsize=_FONT)
        return
    start, end = axes.get_xlim()
    every = next(step for step in _TICKS if (end - start) / step <= 9 or step == _TICKS[-1])
    first = math.ceil((began + start) / every) * every - began
    ticks = [first + n * every for n in range(int((end - first) / every) + 1)]
    ticks = [tick for tick in ticks if tick < end - 0.03 * (end - start)]  # The last label would be cut off.
    shape = "%H:%M:%S" if every < 60 else "%H:%M"
    axes.set_xticks(ticks, [time.strftime(shape, time.gmtime(began + tick)) for tick in ticks])


def _alone(points: Points) -> Points:
    """Return the points without a neighbour, which a line would not show."""
    there = [v == v for _, v in points]
    return [
        point
        for n, point in enumerate(points)
        if there[n] and not (n and there[n - 1]) and not (n + 1 < len(points) and there[n + 1])
    ]


def _scaled(series: Mapping[str, Points], unit: str) -> tuple[float, str]:
    if unit not in ("s", "seconds"):
        return 1.0, unit
    most = max((abs(v) for points in series.values() for _, v in points if v == v), default=0.0)
    if most == 0.0 or most >= 1.0:
        return 1.0, "s"
    return (1e3, "ms") if most >= 1e-3 else (1e6, "µs")


def _first_row(states: Mapping[str, Sequence[tuple[float, str]]], names: Sequence[str], state: str) -> int:
    return next(row for row, name in enumerate(names) if any(said == state for _, said in states[name]))


def state_colour(state: str) -> str:
    """Return the colour of a state or verdict: green is healthy, blue is busy, red needs action."""
    return _STATE_COLOURS.get(state, "#8c8c8c")


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    # One line: a page has dozens of charts, and in git a chart is one generated line instead of 2,500.
    return " ".join(svg[svg.index("<svg") :].split())
