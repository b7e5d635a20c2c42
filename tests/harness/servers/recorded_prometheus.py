"""A real Prometheus that serves series written by a test, as if it had scraped them."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.ports import free_port
from harness.processes import answers, running

STEP_SECONDS = 5


@contextmanager
def recorded_prometheus(
    folder: Path, series: Mapping[str, Mapping[str, Sequence[float | None]]], began: int
) -> Iterator[str]:
    """Yield the URL of a Prometheus with ``series``: metric -> labels -> a value every 5 s, None for no sample.

    The label ``instance="r:1"`` is added where a series names none.
    """
    lines = []
    for name, by_labels in series.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(f"# TYPE {name.removesuffix('_total')} {kind}")
        for labels, values in by_labels.items():
            where = labels if "instance=" in labels else ",".join(filter(None, [labels, 'instance="r:1"']))
            lines += [
                f"{name}{{{where}}} {value} {began + STEP_SECONDS * step}"
                for step, value in enumerate(values)
                if value is not None
            ]
    (folder / "recorded.txt").write_text("\n".join([*lines, "# EOF", ""]))
    (folder / "prometheus.yml").write_text("{}\n")
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "recorded.txt", "data"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    command = [
        "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--storage.tsdb.retention.time=10y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(command, log=folder / "log", ready=answers(f"{url}/-/ready"), ready_seconds=60, cwd=folder):
        yield url
