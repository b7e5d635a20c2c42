"""Locust's entry: reads the workload, starts one open-loop user per process, writes the records.

Options are Locust's own plus `--workload`, `--rate`, `--duration`, `--seed`, `--records`. With workers, each
sends an equal share of the rate and the master writes their records. An account of the scheduled requests is
written next to the records, so that missing records are noticed.
"""

import logging
import os
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import gevent
import psutil
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from load_testing import workloads
from load_testing.measure.generators import Account, Share, write_account
from load_testing.measure.outcome import RequestRecord
from load_testing.users.client import READ_SECONDS, Client
from load_testing.users.open_loop import Run

FIRST_PROGRESS_SECONDS = 1.0
PROGRESS_SECONDS = 5.0
ENDED_EARLY = 3
"""Exit code of a generator that was stopped before the end of its schedule: the run is invalid."""
DONE = "generator_done"
"""Message of a worker that has finished its share, with its remaining records."""
GONE_SECONDS = 15.0
"""Seconds after which a silent worker counts as lost; Locust itself would give its share to the others."""


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--workload", default="fixed-rate", help="folder under workloads/")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: the workload's own")
    parser.add_argument("--duration", type=float, default=0.0, help="seconds; 0: the workload's own")
    parser.add_argument("--seed", type=int, default=1, help="seed of arrivals and prompts")
    parser.add_argument("--records", default="", help="file that gets one JSON line per request")
    parser.add_argument(
        "--stop-file", default="", help="send nothing more once this file exists; open answers are still read"
    )


def _share_count() -> int:
    """Return the number of generators that share the rate."""
    return max(int(os.environ.get("LOAD_WORKERS", "1")), 1)


class Generator(User):
    """One Locust user per process: runs the schedule once, then ends the run."""

    fixed_count = _share_count()  # one per process; Locust distributes them in turn

    @task
    def run_schedule(self) -> None:
        """Run once, whatever happens: Locust restarts a task that raised, which would repeat the schedule."""
        try:
            self._run_schedule()
        except OSError as error:  # standard output is closed, or the disk is full
            logging.getLogger(__name__).warning("the generator ends: %s", error)
        finally:
            self._end()
        raise StopUser

    def _run_schedule(self) -> None:
        options: Namespace = self.environment.parsed_options
        workload = workloads.load(options.workload)
        shares, index = _share(self.environment)
        if workload.recorded and shares > 1:
            sys.exit("a recorded load has one generator: unset LOAD_WORKERS")
        run = Run(
            workload=workload,
            rate_per_second=(options.rate or workload.rate_per_second) / shares,
            duration_seconds=options.duration or workload.duration_seconds,
            seed=options.seed + index,
            clients=_clients(self.environment.host or ""),
            on_record=lambda record: _report(self.environment, record),
            stopped=lambda: bool(options.stop_file) and Path(options.stop_file).exists(),
        )
        self.environment.process_exit_code = ENDED_EARLY
        progress = gevent.spawn(_show_progress, self.environment, run)
        process = psutil.Process()
        cpu_before, began = sum(process.cpu_times()[:2]), time.perf_counter()
        run.dispatch()
        progress.kill()
        elapsed = time.perf_counter() - began
        cpu_cores = (sum(process.cpu_times()[:2]) - cpu_before) / elapsed
        _shares.append(Share(planned=run.planned, seconds=elapsed, cpu_cores=cpu_cores))
        if not isinstance(self.environment.runner, WorkerRunner):
            _write_account(self.environment)
        self.environment.process_exit_code = 0
        print(
            f"generator: {run.planned} planned, {cpu_cores:.0%} of one core over {elapsed:.0f} s", flush=True
        )

    def _end(self) -> None:
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            done = {"records": _pending.copy(), "shares": [share.model_dump() for share in _shares]}
            runner.send_message(DONE, done)
            _pending.clear()
        else:
            gevent.spawn(runner.quit)


def _share(environment: Environment) -> tuple[int, int]:
    """Return (number of generators, index of this one)."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        return _share_count(), max(runner.worker_index, 0)
    return 1, 0


def _clients(base_url: str) -> dict[str, Client]:
    """One client per key: OPENAI_API_KEY_LOAD for the load client, OPENAI_API_KEY for the ordinary one."""
    ordinary = os.environ.get("OPENAI_API_KEY", "")
    if not ordinary:
        sys.exit("OPENAI_API_KEY is not set: `make load` reads it from .run/client.env")
    load = os.environ.get("OPENAI_API_KEY_LOAD") or ordinary
    return {"default": Client(base_url, ordinary), "load": Client(base_url, load)}


_pending: list[str] = []
_shares: list[Share] = []


def _report(environment: Environment, record: RequestRecord) -> None:
    """Add one record to Locust's statistics and to the records file (through the master, if any)."""
    environment.events.request.fire(
        request_type="POST",
        name=record.workload_request,
        response_time=record.total_seconds * 1000,
        response_length=record.completion_tokens or 0,
        exception=RuntimeError(f"{record.outcome}: {record.detail}") if record.outcome.failed else None,
        context={},
    )
    if isinstance(environment.runner, WorkerRunner):
        _pending.append(record.as_json())
    else:
        _write(environment, [record.as_json()])


@events.report_to_master.add_listener
def _send_records(client_id: str, data: dict[str, Any]) -> None:
    data["records"] = _pending.copy()
    _pending.clear()


@events.worker_report.add_listener
def _take_records(client_id: str, data: dict[str, Any]) -> None:
    _write(_master[0], data.get("records", []))


_master: list[Environment] = []


@events.init.add_listener
def _remember_master(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        _master.append(environment)
        environment.runner.register_message(DONE, _take_last_records)


_done: list[str] = []


def _take_last_records(environment: Environment, msg: Any, **_: Any) -> None:
    """Store a worker's last records; the run ends when every worker has finished."""
    _write(environment, msg.data["records"])
    _shares.extend(Share.model_validate(share) for share in msg.data["shares"])
    _done.append(msg.node_id)
    if len(_done) >= _share_count():
        _end_all(environment)


def _end_all(environment: Environment) -> None:
    _write_account(environment)
    if environment.runner is not None:
        gevent.spawn(environment.runner.quit)


@events.test_start.add_listener
def _watch_workers(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        gevent.spawn(_end_without_a_lost_worker, environment, environment.runner)


def _end_without_a_lost_worker(environment: Environment, runner: MasterRunner) -> None:
    """End the run if an unfinished worker is lost or far over time."""
    bound = time.perf_counter() + _account(environment).duration_seconds + READ_SECONDS + 60
    while len(_done) < _share_count():
        gevent.sleep(1)
        here = {client.id for client in runner.clients.all if client.heartbeat > -GONE_SECONDS}
        lost = _share_count() - len(here.union(_done))
        if lost > 0 or time.perf_counter() > bound:
            environment.process_exit_code = ENDED_EARLY
            _end_all(environment)
            print(f"generator: {_share_count() - len(_done)} workers did not come to their end", flush=True)
            return


def _account(environment: Environment) -> Account:
    options = environment.parsed_options
    assert options is not None
    workload = workloads.load(options.workload)
    return Account(
        workload=options.workload,
        target=environment.host or "",
        rate_per_second=options.rate or workload.rate_per_second,
        duration_seconds=options.duration or workload.duration_seconds,
        seed=options.seed,
        generators=_share_count() if isinstance(environment.runner, MasterRunner) else 1,
        shares=tuple(_shares),
    )


def _write_account(environment: Environment) -> None:
    path: str = environment.parsed_options.records if environment.parsed_options else ""
    if path:
        write_account(_account(environment), Path(path))


def _write(environment: Environment, lines: list[str]) -> None:
    options = environment.parsed_options
    # a plain text: Locust sends the master's options to its workers and cannot serialize paths
    path: str = options.records if options else ""
    if path and lines:
        try:
            with Path(path).open("a") as records:
                records.write("\n".join(lines) + "\n")
        except OSError as error:  # the account shows the missing records
            logging.getLogger(__name__).warning("%d records are lost: %s", len(lines), error)


def _show_progress(environment: Environment, run: Run) -> None:
    began = time.perf_counter()
    pause = FIRST_PROGRESS_SECONDS
    while True:
        gevent.sleep(pause)
        pause = PROGRESS_SECONDS
        total = environment.stats.total
        print(
            f"{time.perf_counter() - began:5.0f} s of {run.duration_seconds:.0f}: "
            f"{run.planned} sent, {run.in_flight} in flight, {total.num_failures} failed, "
            f"median {total.median_response_time or 0:.0f} ms",
            flush=True,
        )
