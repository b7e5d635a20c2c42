"""A benchmark's report as a table of ratios and as a picture; measures nothing."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load_testing.bench.interpreter import sentence
from load_testing.bench.systems import OURS, OURS_WITH_REDIS

NAMES = (OURS, "vllm-router", "sglang-router", "envoy")

ROWS = (
    ("CPU µs/request, c=1, 1 kB", "cpu_us_per_request_c1_1kb"),
    ("CPU µs/request, c=32, 1 kB", "cpu_us_per_request_c32_1kb"),
    ("CPU µs/request, c=32, 1 kB, sessions", "cpu_us_per_request_c32_1kb_sessions"),
    ("CPU µs/request, c=32, 1 kB, idle sessions", "cpu_us_per_request_c32_1kb_idle_sessions"),
    ("CPU µs/request, c=32, 32 kB", "cpu_us_per_request_c32_32kb"),
    ("requests/s, c=32, 1 kB", "requests_per_second_c32_1kb"),
    ("CPU µs/chunk, 64 streams", "cpu_us_per_chunk_64"),
    ("CPU µs/chunk, 256 streams", "cpu_us_per_chunk_256"),
    ("CPU µs/chunk, 1,000 streams", "cpu_us_per_chunk_1000"),
    ("CPU µs/answer of 256 tokens, 64 at once", "cpu_us_per_answer_256_tokens"),
    ("gap p99 ms, 1,000 streams", "gap_p99_ms_1000"),
    ("TTFT p50 ms, 200/s", "ttft_p50_ms"),
    ("TTFT p99 ms, 200/s", "ttft_p99_ms"),
    ("memory at rest MB", "memory_at_rest_mb"),
    ("memory per stream kB, 1,000", "kb_per_stream_1000"),
    ("requests traced, %", "traced_percent"),
)


Target = tuple[str, float | None, str, bool | None]
"""A target, its measured value, its limit, and whether it is met."""

WORDS = {True: "met", False: "MISSED", None: "not measured"}


def targets(medians: Mapping[str, Mapping[str, float]]) -> list[Target]:
    """Return every target with its measured value, its limit, and whether it is met (None: not measured)."""

    def of(name: str, what: str) -> float | None:
        return medians.get(name, {}).get(what)

    def ratio(what: str, peer: str) -> float | None:
        ours, theirs = of(OURS, what), of(peer, what)
        return ours / theirs if ours is not None and theirs else None

    def less(what: str) -> float | None:
        ours, direct = of(OURS, what), of("direct", what)
        return ours - direct if ours is not None and direct is not None else None

    session, plain = (of(OURS_WITH_REDIS, f"cpu_us_per_request_c32_1kb{end}") for end in ("_sessions", ""))
    gap, direct_gap = of(OURS, "gap_p99_ms_1000"), of("direct", "gap_p99_ms_1000")
    rows: list[tuple[str, float | None, float, bool]] = [
        (
            "CPU/request c=32 1 kB, of vllm-router",
            ratio("cpu_us_per_request_c32_1kb", "vllm-router"),
            1.3,
            True,
        ),
        ("CPU/request c=32 1 kB, of Envoy", ratio("cpu_us_per_request_c32_1kb", "envoy"), 2.0, True),
        ("CPU/chunk 256 streams, of vllm-router", ratio("cpu_us_per_chunk_256", "vllm-router"), 0.75, True),
        ("CPU/chunk 256 streams, of Envoy", ratio("cpu_us_per_chunk_256", "envoy"), 0.95, True),
        (
            "CPU/answer of 256 tokens, 64 at once, of vllm-router",
            ratio("cpu_us_per_answer_256_tokens", "vllm-router"),
            0.8,
            True,
        ),
        ("requests/s c=32, of vllm-router", ratio("requests_per_second_c32_1kb", "vllm-router"), 0.8, False),
        ("added TTFT p50, ms", less("ttft_p50_ms"), 1.0, True),
        ("added TTFT p99, ms", less("ttft_p99_ms"), 5.0, True),
        ("failed of 1,000 streams", of(OURS, "failed_1000"), 0.0, True),
        ("gap p99 at 1,000 streams, of direct", gap / direct_gap if gap and direct_gap else None, 1.05, True),
        ("memory at rest, MB", of(OURS, "memory_at_rest_mb"), 90.0, True),
        ("memory per stream, kB", of(OURS, "kb_per_stream_1000"), 40.0, True),
        (
            "sessions in Redis, of the plain request",
            session / plain if session and plain else None,
            1.2,
            True,
        ),
    ]
    return [judged(*row) for row in rows]


def judged(what: str, value: float | None, limit: float, at_most: bool = True) -> Target:
    """Return a target with its measured value, its limit in words, and whether it is met (None: not measured)."""
    met = None if value is None else (value <= limit if at_most else value >= limit)
    return what, value, f"{'≤' if at_most else '≥'} {limit:g}", met


def rounds(report: Mapping[str, Any]) -> list[dict[str, dict[str, float]]]:
    """Return the measured values of each round, in the format of the medians."""
    return [
        {
            name: {what: values[number] for what, values in measures.items() if number < len(values)}
            for name, measures in report["all"].items()
        }
        for number in range(report["rounds"])
    ]


def shown(value: float) -> str:
    """Format three significant digits: further digits differ between any two runs."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def with_spread(median: float | None, values: Sequence[float]) -> str:
    """Format a median with the minimum and maximum of its rounds: the median alone hides an outlier."""
    if median is None:
        return "-"
    return (
        shown(median) if len(values) < 2 else f"{shown(median)} ({shown(min(values))}–{shown(max(values))})"
    )


def table(report: Mapping[str, Any]) -> str:
    """Return the measured values side by side, then every target with its ratio; medians with minimum and
    maximum of the rounds.
    """
    lines = ["", f"router's interpreter: {sentence(report['interpreter'])}", "commands:"]
    lines += [f"  {name}: {command}" for name, command in report["commands"].items()]
    return "\n".join([*lines, "", *aligned(_figures(report)), "", *aligned(_targets(report))])


def _figures(report: Mapping[str, Any]) -> list[list[str]]:
    columns = ("direct", OURS, OURS_WITH_REDIS, *NAMES[1:])
    rows = [["median (least–greatest round)" if report["rounds"] > 1 else "", *columns]]
    for title, what in ROWS:
        cells = []
        for name in columns:
            values = report["all"].get(name, {}).get(what, [])
            cells.append(with_spread(statistics.median(values) if values else None, values))
        rows.append([title, *cells])
    return rows


def _targets(report: Mapping[str, Any]) -> list[list[str]]:
    rows = [["target", "measured", "limit", ""]]
    of_rounds = [targets(figures) for figures in rounds(report)]
    for row, (what, value, limit, met) in enumerate(targets(report["medians"])):
        values = [found[row][1] for found in of_rounds]
        rows.append([what, with_spread(value, [v for v in values if v is not None]), limit, WORDS[met]])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the first column left and the others right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Return bars of CPU per request and per chunk as SVG, without a plotting library."""
    medians = report["medians"]
    panels = (("CPU µs per request, c=32, 1 kB", "cpu_us_per_request_c32_1kb"),
              ("CPU µs per chunk, 256 streams", "cpu_us_per_chunk_256"))  # fmt: skip
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="860" height="260" font-family="sans-serif">']
    parts.append('<rect width="860" height="260" fill="white"/>')
    for panel, (title, what) in enumerate(panels):
        left = 20 + panel * 420
        parts.append(f'<text x="{left}" y="28" font-size="15">{title}</text>')
        values = [(name, medians.get(name, {}).get(what)) for name in NAMES]
        highest = max([value for _, value in values if value is not None], default=1.0)
        for row, (name, value) in enumerate(values):
            top = 50 + row * 48
            parts.append(f'<text x="{left}" y="{top + 19}" font-size="12">{name}</text>')
            if value is None:
                continue
            width = 220 * value / highest
            colour = "#2b6cb0" if name == OURS else "#a0aec0"
            parts.append(
                f'<rect x="{left + 110}" y="{top}" width="{width:.1f}" height="28" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{left + 116 + width:.1f}" y="{top + 19}" font-size="12">{value:.1f}</text>'
            )
    parts.append("</svg>")
    path.write_text("\n".join(parts))
