"""`make load`: one workload against one target, then the report. Owns the run's folder and its exit code.

Exit 0: the gate passed. 1: it did not (failures, late sends, goodput below the SLO). 2: bad input.
"""

import argparse
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import workloads
from reports.page import write_report
from reports.summary import Summary, read_records, summarize
from users.client import READ_SECONDS

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = f"http://127.0.0.1:{os.environ.get('PROMETHEUS_PORT') or '9090'}"
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
    records_file.write_text("")  # a run that was cut off may have left some
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
            command, env={**os.environ, **plan.environment}, check=False, timeout=bound, preexec_fn=_go_first
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
        configuration=configuration(plan),
    )


def _go_first() -> None:
    """A generator that waits for a core measures its own lateness: where it may (root, Linux), it runs the moment
    that a request is due. A higher priority is not enough: beside engines that fill every core it waits up to half
    a second all the same."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def configuration(plan: Plan) -> dict[str, str]:
    """Return what a run's result depends on, each by its hash: the workload and this checkout."""
    text = (workloads.FOLDER / plan.name / "workload.yaml").read_bytes()
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        described = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        described = ""
    return {
        "workload": hashlib.sha256(text).hexdigest()[:12],
        "commit of the checkout": described or "not a git checkout",
    }


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
    check_url(found["OPENAI_BASE_URL"])
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        if not found[name]:
            raise ValueError(f"{name} is not known: run `make up` first, or set it (TARGET=… sets the URL)")
    return found


def check_url(url: str) -> None:
    """Refuse what is no base URL, and a host that does not resolve or answer.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    if not url:
        return
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise ValueError(f'TARGET: "{url}" is not a base URL such as https://llm.example.com/v1')
    try:
        socket.create_connection((parts.hostname, port), timeout=10).close()
    except OSError as error:
        raise ValueError(
            f"TARGET: nothing answers at {parts.hostname}:{port} ({error}); is the stack up (`make status`)?"
        ) from None


def _show(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:.0f} ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="fixed-rate", help="a folder under load-testing/workloads")
    parser.add_argument(
        "--rate", type=_rate, default=0.0, help="requests per second (default: the workload's own)"
    )
    parser.add_argument(
        "--duration", type=_seconds, default=0.0, help="seconds, or 10m (default: the workload's own)"
    )
    parser.add_argument("--target", help="base URL ending in /v1 (default: the local stack's edge)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the report (default: .run/load/<time>)")
    parser.add_argument("--prometheus", default=PROMETHEUS, help="its URL")
    return parser


def _rate(text: str) -> float:
    return _positive("RATE", text, text, "a number of requests per second such as 2 or 0.5")


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    return _positive("DURATION", text, number, "a duration such as 90, 90s or 10m") * unit


def _positive(name: str, text: str, number: str, wanted: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f'{name}: "{text}" is not {wanted}')
    return value


if __name__ == "__main__":
    sys.exit(main())
