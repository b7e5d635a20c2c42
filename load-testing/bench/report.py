"""A benchmark's report as a table of ratios and as a picture; measures nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES = ("router-service", "vllm-router", "sglang-router", "envoy")

ROWS = (
    ("CPU µs/request, c=1, 1 kB", "cpu_us_per_request_c1_1kb"),
    ("CPU µs/request, c=32, 1 kB", "cpu_us_per_request_c32_1kb"),
    ("CPU µs/request, c=32, 32 kB", "cpu_us_per_request_c32_32kb"),
    ("CPU µs/request, c=32, one session", "cpu_us_per_request_c32_1kb_session"),
    ("requests/s, c=32, 1 kB", "requests_per_second_c32_1kb"),
    ("CPU µs/chunk, 64 streams", "cpu_us_per_chunk_64"),
    ("CPU µs/chunk, 256 streams", "cpu_us_per_chunk_256"),
    ("CPU µs/chunk, 1,000 streams", "cpu_us_per_chunk_1000"),
    ("gap p99 ms, 1,000 streams", "gap_p99_ms_1000"),
    ("TTFT p50 ms, 200/s", "ttft_p50_ms"),
    ("TTFT p99 ms, 200/s", "ttft_p99_ms"),
    ("memory at rest MB", "memory_at_rest_mb"),
    ("memory per stream kB, 1,000", "kb_per_stream_1000"),
)


def targets(medians: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float | None, str, bool | None]]:
    """Every target with its figure, its limit, and whether it is met (None: not measured)."""

    def of(name: str, what: str) -> float | None:
        return medians.get(name, {}).get(what)

    def ratio(what: str, peer: str) -> float | None:
        ours, theirs = of("router-service", what), of(peer, what)
        return ours / theirs if ours is not None and theirs else None

    def less(what: str) -> float | None:
        ours, direct = of("router-service", what), of("direct", what)
        return ours - direct if ours is not None and direct is not None else None

    session, plain = (of("router-service", f"cpu_us_per_request_c32_1kb{end}") for end in ("_session", ""))
    gap, direct_gap = of("router-service", "gap_p99_ms_1000"), of("direct", "gap_p99_ms_1000")
    rows: list[tuple[str, float | None, float, bool]] = [
        (
            "CPU/request c=32 1 kB, of vllm-router",
            ratio("cpu_us_per_request_c32_1kb", "vllm-router"),
            1.0,
            True,
        ),
        ("CPU/request c=32 1 kB, of Envoy", ratio("cpu_us_per_request_c32_1kb", "envoy"), 2.0, True),
        ("CPU/chunk 256 streams, of vllm-router", ratio("cpu_us_per_chunk_256", "vllm-router"), 0.75, True),
        ("CPU/chunk 256 streams, of Envoy", ratio("cpu_us_per_chunk_256", "envoy"), 0.8, True),
        ("requests/s c=32, of vllm-router", ratio("requests_per_second_c32_1kb", "vllm-router"), 0.8, False),
        ("added TTFT p50, ms", less("ttft_p50_ms"), 1.0, True),
        ("added TTFT p99, ms", less("ttft_p99_ms"), 5.0, True),
        ("failed of 1,000 streams", of("router-service", "failed_1000"), 0.0, True),
        ("gap p99 at 1,000 streams, of direct", gap / direct_gap if gap and direct_gap else None, 1.25, True),
        ("memory at rest, MB", of("router-service", "memory_at_rest_mb"), 90.0, True),
        ("memory per stream, kB", of("router-service", "kb_per_stream_1000"), 40.0, True),
        ("session affinity, of the plain request", session / plain if session and plain else None, 1.3, True),
    ]
    found: list[tuple[str, float | None, str, bool | None]] = []
    for what, value, limit, at_most in rows:
        met = None if value is None else (value <= limit if at_most else value >= limit)
        found.append((what, value, f"{'≤' if at_most else '≥'} {limit:g}", met))
    return found


def table(report: Mapping[str, Any]) -> str:
    """The figures side by side, then every target with its ratio."""
    medians = report["medians"]
    columns = ("direct", *NAMES)
    lines = ["", "commands:"]
    lines += [f"  {name}: {command}" for name, command in report["commands"].items()]
    lines += ["", f"{'':36}" + "".join(f"{name:>16}" for name in columns)]
    for title, what in ROWS:
        cells = [medians.get(name, {}).get(what) for name in columns]
        lines.append(f"{title:36}" + "".join(f"{'-' if c is None else f'{c:.2f}':>16}" for c in cells))
    lines += ["", f"{'target':44}{'measured':>10}{'limit':>9}"]
    for what, value, limit, met in targets(medians):
        shown = "-" if value is None else f"{value:.2f}"
        word = {True: "met", False: "MISSED", None: "not measured"}[met]
        lines.append(f"{what:44}{shown:>10}{limit:>9}  {word}")
    return "\n".join(lines)


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Bars of CPU per request and per chunk, as SVG written by hand: no plotting library is needed."""
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
            colour = "#2b6cb0" if name == "router-service" else "#a0aec0"
            parts.append(
                f'<rect x="{left + 110}" y="{top}" width="{width:.1f}" height="28" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{left + 116 + width:.1f}" y="{top + 19}" font-size="12">{value:.1f}</text>'
            )
    parts.append("</svg>")
    path.write_text("\n".join(parts))
