"""Charts as SVG text, drawn for light and dark pages alike. Draws what it is given; asks nobody."""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

# One colour per series, told apart in light and dark and by colour-blind readers (Okabe-Ito).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c", "#f0e442")
_INK = "#7a8594"
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
    """Text stays text (so that it is searchable and small), and the same chart gives the same bytes."""
    return mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "llm-platform", "font.family": "sans-serif"}
    )


def chart(
    series: Mapping[str, Points],
    unit: str,
    kind: Literal["lines", "stacked"] = "lines",
    span: float | None = None,
) -> str:
    """Return an SVG of ``series`` (name -> points of seconds since the start, and value).

    ``stacked`` adds the series up; they must then share their times. ``span`` is where the time axis ends.
    """
    with _style():
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
        if span is not None:
            axes.set_xlim(0, span)
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
        return _svg(figure)


def state_chart(states: Mapping[str, Sequence[tuple[float, str]]], span: float, step: float) -> str:
    """Return an SVG with one row per name, coloured by the state it is in at each time.

    Args:
        states: name -> (seconds since the start, state), in any order.
        span: where the time axis ends, in seconds.
        step: how long one point stands for, in seconds.
    """
    names = sorted(states)
    with _style():
        figure = Figure(figsize=(10.4, 0.9 + 0.45 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        shown = sorted({state for points in states.values() for _, state in points})
        for row, name in enumerate(names):
            for state in shown:
                spans = [(at, step) for at, said in sorted(states[name]) if said == state]
                label = state if row == _first_row(states, names, state) else None
                axes.broken_barh(spans, (row - 0.35, 0.7), color=state_colour(state), label=label)
        axes.set_xlim(0, span)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(colors=_INK, labelsize=9, length=0)
        axes.set_xlabel("seconds since the start", color=_INK, fontsize=9)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.legend(loc="outside upper left", ncols=8, frameon=False, fontsize=9, labelcolor=_INK)
        return _svg(figure)


def _first_row(states: Mapping[str, Sequence[tuple[float, str]]], names: Sequence[str], state: str) -> int:
    return next(row for row, name in enumerate(names) if any(said == state for _, said in states[name]))


def state_colour(state: str) -> str:
    """The colour a state or verdict has everywhere: green is well, blue is work, red needs somebody."""
    return _STATE_COLOURS.get(state, "#8c8c8c")


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]
