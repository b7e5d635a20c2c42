"""`make load`: one workload against one target, then the report. Owns the run's folder and its exit code.

Exit 0: the gate passed. 1: it did not (failures, late sends, goodput below the SLO). 2: bad input.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import workloads
from reports.page import write_report
from reports.summary import Summary, read_records, summarize
from users.client import READ_SECONDS

ROOT = Path(__file__).resolve().parent.parent
CLIENT_FILE = ROOT / ".run" / "client.env"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        workload = workloads.load(options.workload)
        environment = client_environment(os.environ, options.target)
    except (workloads.BadWorkload, ValueError) as problem:
        print(f"load: {problem}", file=sys.stderr)
        return 2
    plan = Plan(
        name=options.workload,
        workload=workload,
        rate_per_second=options.rate or workload.rate_per_second,
        duration_seconds=options.duration or workload.duration_seconds,
        seed=options.seed,
        environment=environment,
    )
    folder: Path = options.out or new_folder("load")
    print(f"{plan.name}: {plan.rate_per_second:g} requests/s for {plan.duration_seconds:g} s", end=" ")
    print(f"against {environment['OPENAI_BASE_URL']}, seed {plan.seed}", flush=True)
    try:
        summary = run_once(plan, folder)
    except GeneratorFailed as failure:
        print(f"load: {failure}", file=sys.stderr)
        return 1
    page = write_report(folder, summary, options.prometheus)
    print(one_line(summary))
    for failing in summary.problems:
        print(f"FAILED: {failing}")
    for failed in summary.numbers["failures"][:5]:
        print(f"  {failed['request_id'] or '(no request id)'} {failed['outcome']}: {failed['detail']}")
    print(f"report: {page}")
    return 0 if summary.passed else 1


class GeneratorFailed(Exception):
    """The load generator itself did not run to its end."""


@dataclass(frozen=True)
class Plan:
    """What to send, where, and for how long."""

    name: str
    workload: workloads.Workload
    rate_per_second: float
    duration_seconds: float
    seed: int
    environment: Mapping[str, str]


def run_once(plan: Plan, folder: Path) -> Summary:
    """Run the generator once; its records end up in ``folder/requests.jsonl``.

    Raises:
        GeneratorFailed: Locust ended with an error of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records_file = folder / "requests.jsonl"
    records_file.touch()
    started_at = time.time()
    target = plan.environment["OPENAI_BASE_URL"]
    command = [
        *(sys.executable, "-m", "locust", "--headless", "--only-summary", "--users", "1"),
        *("--locustfile", str(ROOT / "load-testing" / "locustfile.py"), "--host", target),
        *("--workload", plan.name, "--rate", str(plan.rate_per_second)),
        *("--duration", str(plan.duration_seconds), "--seed", str(plan.seed)),
        *("--records", str(records_file), "--exit-code-on-error", "0", "--loglevel", "WARNING"),
    ]
    # the generator ends by itself; the bound only keeps a hung one from staying for ever
    bound = plan.duration_seconds + READ_SECONDS + 60
    try:
        ended = subprocess.run(
            command, env={**os.environ, **plan.environment}, check=False, timeout=bound
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise GeneratorFailed(f"the generator did not end within {bound:.0f} s") from error
    if ended != 0:
        raise GeneratorFailed(f"the generator ended with exit code {ended}; its messages are above")
    return summarize(
        read_records(records_file),
        plan.workload.slo,
        workload=plan.name,
        description=plan.workload.description,
        target=target,
        rate_per_second=plan.rate_per_second,
        duration_seconds=plan.duration_seconds,
        seed=plan.seed,
        started_at=started_at,
        ended_at=time.time(),
    )


def new_folder(kind: str) -> Path:
    """Return a folder for a run of this kind, named by the time in UTC."""
    return ROOT / ".run" / kind / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def one_line(summary: Summary) -> str:
    """Return a run's most telling numbers as one line."""
    n = summary.numbers
    return (
        f"{n['requests']} requests, {n['failed']} failed, {n['truncated']} truncated, "
        f"goodput {n['goodput_ratio']:.1%}, TTFT p50 {_show(n['ttft_seconds']['p50'])}, "
        f"p99 {_show(n['ttft_seconds']['p99'])}, {n['late_ratio']:.2%} sent late"
    )


def client_environment(environment: Mapping[str, str], target: str | None) -> dict[str, str]:
    """Return base URL and keys: from the environment, else from `.run/client.env`.

    Raises:
        ValueError: neither says which key or URL to use.
    """
    known: dict[str, str] = {}
    if CLIENT_FILE.is_file():
        for line in CLIENT_FILE.read_text().splitlines():
            name, equals, value = line.removeprefix("export ").partition("=")
            if equals and not name.startswith("#"):
                known[name.strip()] = value.strip().strip("'\"")
    names = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_API_KEY_LOAD")
    found = {n: environment.get(n) or known.get(n, "") for n in names}
    if target:
        found["OPENAI_BASE_URL"] = target
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        if not found[name]:
            raise ValueError(f"{name} is not known: run `make up` first, or set it (TARGET=… sets the URL)")
    return found


def _show(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:.0f} ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="fixed-rate", help="a folder under load-testing/workloads")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: the workload's own")
    parser.add_argument(
        "--duration", type=_seconds, default=0.0, help="seconds, or 10m; 0: the workload's own"
    )
    parser.add_argument("--target", help="base URL ending in /v1 (default: the local stack's edge)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the report (default: .run/load/<time>)")
    parser.add_argument(
        "--prometheus",
        default=f"http://127.0.0.1:{os.environ.get('PROMETHEUS_PORT', '9090')}",
        help="its URL",
    )
    return parser


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration such as 90, 90s or 10m') from error


if __name__ == "__main__":
    sys.exit(main())
