"""`make load`: one workload against one target, then the report. Owns the run's folder and its exit code.

With ``--records`` nothing is sent: report and verdict come from the records of generators elsewhere.
Exit 0: the gate passed. 1: it failed (failures, late sends, goodput below the SLO). 2: bad input.
"""

import argparse
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from load_testing import workloads
from load_testing.checkout import ROOT
from load_testing.measure.generators import (
    Account,
    BadAccount,
    account_file,
    merged,
    read_account,
    write_account,
)
from load_testing.measure.outcome import RequestRecord
from load_testing.reports.page import write_report
from load_testing.reports.summary import BadRecords, Summary, read_records, summarize
from load_testing.users.client import READ_SECONDS

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
PROMETHEUS = f"http://127.0.0.1:{os.environ.get('PROMETHEUS_PORT') or '9090'}"
NAMED = 5
"""Number of requests of a failed run that the console names."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    folder: Path = options.out or new_folder("load")
    try:
        summary = judge(options.records, folder) if options.records else _send(_plan(options), folder)
    except (workloads.BadWorkload, BadTarget, BadAccount, BadRecords) as problem:
        print(f"load: {problem}", file=sys.stderr)
        return 2
    except GeneratorFailed as failure:
        print(f"load: {failure}", file=sys.stderr)
        return 1
    prometheus = prometheus_of(summary.numbers["target"], options.prometheus, os.environ)
    page = write_report(folder, summary, prometheus)
    print(one_line(summary))
    for failing in summary.problems:
        print(f"FAILED: {failing}")
    for line in _to_look_at(summary.numbers):
        print(f"  {line}")
    print(f"report: {page}")
    return 0 if summary.passed else 1


class GeneratorFailed(Exception):
    """The load generator did not finish its run."""


class BadTarget(Exception):
    """There is no usable base URL or key; the message names the variable to set."""


@dataclass(frozen=True)
class Plan:
    """The workload, target and duration of a run."""

    name: str
    workload: workloads.Workload
    rate_per_second: float
    duration_seconds: float
    seed: int
    environment: Mapping[str, str]


def _plan(options: argparse.Namespace) -> Plan:
    workload = workloads.load(options.workload)
    return Plan(
        name=options.workload,
        workload=workload,
        rate_per_second=options.rate or workload.rate_per_second,
        duration_seconds=options.duration or workload.duration_seconds,
        seed=options.seed,
        environment=client_environment(os.environ, options.target),
    )


def _send(plan: Plan, folder: Path) -> Summary:
    print(f"{plan.name}: {plan.rate_per_second:g} requests/s for {plan.duration_seconds:g} s", end=" ")
    print(f"against {plan.environment['OPENAI_BASE_URL']}, seed {plan.seed}", flush=True)
    return run_once(plan, folder)


def run_once(plan: Plan, folder: Path) -> Summary:
    """Run the generator once; its records end up in ``folder/requests.jsonl``.

    Raises:
        GeneratorFailed: Locust failed, or wrote files that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records_file = folder / "requests.jsonl"
    records_file.write_text("")  # an interrupted run may have left some
    account_file(records_file).unlink(missing_ok=True)
    started_at = time.time()
    target = plan.environment["OPENAI_BASE_URL"]
    command = [
        *(sys.executable, "-m", "locust", "--headless", "--only-summary", "--users", "1"),
        *("--locustfile", str(LOCUSTFILE), "--host", target),
        *("--workload", plan.name, "--rate", str(plan.rate_per_second)),
        *("--duration", str(plan.duration_seconds), "--seed", str(plan.seed)),
        *("--records", str(records_file), "--exit-code-on-error", "0", "--loglevel", "WARNING"),
    ]
    # the generator ends by itself; the limit only stops a hung one
    bound = plan.duration_seconds + READ_SECONDS + 60
    try:
        ended = subprocess.run(
            command, env={**os.environ, **plan.environment}, check=False, timeout=bound, preexec_fn=_go_first
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise GeneratorFailed(f"the generator did not end within {bound:.0f} s") from error
    if ended != 0:
        raise GeneratorFailed(f"the generator ended with exit code {ended}; its messages are above")
    try:
        account, records = read_account(records_file), read_records(records_file)
    except (BadAccount, BadRecords) as error:
        raise GeneratorFailed(f"the generator did not write all that it should: {error}") from error
    return _summarized(records, account, plan.workload, started_at, time.time())


def judge(files: Sequence[Path], folder: Path) -> Summary:
    """Evaluate one run from its generators' records, which are merged into ``folder/requests.jsonl``.

    Raises:
        BadRecords, BadAccount: a file or its account cannot be read, or they belong to different runs.
        workloads.BadWorkload: this checkout lacks the workload that was sent.
    """
    account = merged([read_account(path) for path in files])
    records = sorted((r for path in files for r in read_records(path)), key=lambda r: r.sent_at)
    workload = workloads.load(account.workload)
    folder.mkdir(parents=True, exist_ok=True)
    together = folder / "requests.jsonl"
    together.write_text("".join(f"{record.as_json()}\n" for record in records))
    write_account(account, together)
    started_at = min((r.sent_at for r in records), default=0.0)
    return _summarized(
        records, account, workload, started_at, max((r.ended_at for r in records), default=0.0)
    )


def _summarized(
    records: Sequence[RequestRecord],
    account: Account,
    workload: workloads.Workload,
    started_at: float,
    ended_at: float,
) -> Summary:
    return summarize(
        records,
        workload.slo,
        account,
        description=workload.described(is_local(account.target, os.environ)),
        started_at=started_at,
        ended_at=ended_at,
        configuration=configuration(account.workload),
    )


def _go_first() -> None:
    """Use real-time scheduling where allowed (root, Linux), because a generator that waits for a core
    measures its own lateness. A higher nice priority is not enough: next to engines that use every core, it
    still waits up to half a second.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def configuration(workload: str) -> dict[str, str]:
    """Return hashes of the workload and of this checkout, on which the result depends."""
    text = (workloads.FOLDER / workload / "workload.yaml").read_bytes()
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
    """Return a run's main numbers as one line."""
    n = summary.numbers
    return (
        f"{n['requests']} requests, {n['failed']} failed, {n['truncated']} truncated, "
        f"goodput {n['goodput_ratio']:.1%}, TTFT p50 {_show(n['ttft_seconds']['p50'])}, "
        f"p99 {_show(n['ttft_seconds']['p99'])}, {n['late_ratio']:.2%} sent late"
    )


def _to_look_at(n: Mapping[str, Any]) -> list[str]:
    """Return the first failed requests of a run, else the first slow ones, and the number of further ones."""
    if n["failed"]:
        count = n["failed"]
        lines = [f"{_id(f)} {f['outcome']}: {f['detail']}" for f in n["failures"][:NAMED]]
    elif not n["passed"]:
        count = n["slow_requests"]
        lines = [
            f"{_id(s)} slow: first token {_show(s['ttft_seconds'])}, p95 of its gaps "
            f"{_show(s['inter_token_p95_seconds'])}"
            for s in n["slow"][:NAMED]
        ]
    else:
        return []
    return [*lines, f"and {count - NAMED} more; see the report"] if count > NAMED else lines


def _id(request: Mapping[str, Any]) -> str:
    return request["request_id"] or "(no request id)"


def local_client(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in `client.env` of the local stack; empty if there is none."""
    path = ROOT / (environment.get("RUN_DIR") or ".run") / "client.env"
    known: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            name, equals, value = line.removeprefix("export ").partition("=")
            if equals and not name.startswith("#"):
                known[name.strip()] = value.strip().strip("'\"")
    return known


def is_local(url: str, environment: Mapping[str, str]) -> bool:
    """Return whether a base URL belongs to the local stack."""
    local = local_client(environment).get("OPENAI_BASE_URL", "")
    return bool(local) and url.rstrip("/") == local.rstrip("/")


def prometheus_of(url: str, given: str | None, environment: Mapping[str, str]) -> str:
    """Return the URL of the Prometheus for the target ``url``: the given one, the local stack's, or ""."""
    return given or (PROMETHEUS if is_local(url, environment) else "")


def client_environment(environment: Mapping[str, str], target: str | None) -> dict[str, str]:
    """Return base URL and keys from the environment, else from `client.env`, whose keys are used for its own
    URL only.

    Raises:
        BadTarget: neither has a key or URL, or the target does not respond.
    """
    known = local_client(environment)
    url = target or environment.get("OPENAI_BASE_URL") or known.get("OPENAI_BASE_URL", "")
    if not url:
        raise BadTarget("OPENAI_BASE_URL is not known: run `make up` first, or set TARGET=…")
    check_url(url)
    if not is_local(url, environment):
        known = {}
    keys = {n: environment.get(n) or known.get(n, "") for n in ("OPENAI_API_KEY", "OPENAI_API_KEY_LOAD")}
    if not keys["OPENAI_API_KEY"]:
        raise BadTarget(
            f"OPENAI_API_KEY is not set: {url} is not the local stack, whose keys are sent to nobody else; "
            "set the key of that server (any word if it wants none)"
        )
    return {"OPENAI_BASE_URL": url, **keys}


def check_url(url: str) -> None:
    """Check that a string is a base URL whose host resolves and responds.

    Raises:
        BadTarget: names the fault and the remedy.
    """
    host, port = _host_and_port(url)
    if not host:
        raise BadTarget(f'TARGET: "{url}" is not a base URL such as https://llm.example.com/v1')
    try:
        socket.create_connection((host, port), timeout=10).close()
    except (OSError, UnicodeError) as error:  # UnicodeError for an invalid host name
        raise BadTarget(
            f"TARGET: nothing answers at {host}:{port} ({error}); is the stack up (`make status`)?"
        ) from None


def _host_and_port(url: str) -> tuple[str, int]:
    """Return host and port of an http(s) URL, or ("", 0)."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "", 0
    return (parts.hostname or "", port) if parts.scheme in ("http", "https") else ("", 0)


def _show(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:.0f} ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="fixed-rate", help="the name of a workload")
    parser.add_argument(
        "--rate", type=rate, default=0.0, help="requests per second (default: the workload's own)"
    )
    parser.add_argument(
        "--duration", type=seconds, default=0.0, help="seconds, or 10m (default: the workload's own)"
    )
    parser.add_argument("--target", help="base URL ending in /v1 (default: the local stack's edge)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the report (default: .run/load/<time>)")
    parser.add_argument(
        "--records",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="send nothing: judge the records that generators wrote (each FILE next to its .generator.json)",
    )
    add_prometheus(parser)
    return parser


def add_prometheus(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a Prometheus."""
    parser.add_argument(
        "--prometheus",
        type=_url,
        help="URL of the Prometheus that watches the target (default: the local stack's, for a run against it)",
    )


def _url(text: str) -> str:
    if not _host_and_port(text)[0]:
        raise argparse.ArgumentTypeError(f'"{text}" is not a URL such as http://127.0.0.1:9090')
    return text


def rate(text: str) -> float:
    """Read a rate in requests per second; for argparse."""
    return _positive("RATE", text, text, "a number of requests per second such as 2 or 0.5")


def seconds(text: str) -> float:
    """Read a duration, in seconds or with a unit; for argparse."""
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
