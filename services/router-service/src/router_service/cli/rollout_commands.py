"""`router-service rollout`: the controller, the state of all rollouts, and the replay of recorded steps.

Its parts are imported by the commands that need them, because `serve` should load neither numpy nor Redis's client.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platform_contracts.log_lines import log_line
from router_service.cli.bad_input import BadInput
from router_service.config import RouterConfig, load, redis_login

if TYPE_CHECKING:
    from router_service.rollout.leader import Leader
    from router_service.rollout.plan import Step
    from router_service.rollout.weights_store import WeightsStore

LEADER_TIMEOUT_SECONDS = 1.0


def add_rollout(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `rollout` with its own commands."""
    rollout = commands.add_parser("rollout", help="raise the share of a new pool in guarded steps")
    inner = rollout.add_subparsers(required=True, metavar="COMMAND")
    running = inner.add_parser("run", help="run the controller, which writes the weights file")
    running.add_argument("--config", type=Path, required=True, help="the configuration of the routers")
    running.add_argument(
        "--config-map",
        metavar="NAMESPACE/NAME",
        help="write the weights into this ConfigMap, which the routers mount; the weights file is then a copy of it",
    )
    running.add_argument("--host", default="127.0.0.1", help="address of /healthz and /readyz")
    running.add_argument("--port", type=int, help="port of /healthz and /readyz (default: none is opened)")
    running.set_defaults(run=_run)
    showing = inner.add_parser("status", help="print the state of every rollout")
    showing.add_argument("--config", type=Path, required=True, help="the configuration of the routers")
    showing.set_defaults(run=_status)
    replaying = inner.add_parser("replay", help="compute recorded steps again and compare")
    replaying.add_argument("file", type=Path, help="the controller's log")
    replaying.set_defaults(run=_replay)


def _run(options: argparse.Namespace) -> int:
    config = load(options.config)
    if config.values.routing.weights_file is None:
        raise BadInput(
            f"{options.config}: routing.weights_file is missing: name the file that the controller writes"
        )
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_until_signalled(options, config))
    return 0


async def _until_signalled(options: argparse.Namespace, config: RouterConfig) -> None:
    from router_service.rollout.controller import Controller
    from router_service.rollout.probes import Probes

    path = options.config
    weights = _weights(path.parent / str(config.values.routing.weights_file), options.config_map)
    leader = _leader(path, config)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    def log(level: str, event: str, **values: object) -> None:
        print(log_line("router-service", level, event, **values), flush=True)

    probes = Probes()
    if options.port is not None:
        try:
            await probes.serve(options.host, options.port)
        except OSError as error:
            raise BadInput(f"--host {options.host} --port {options.port}: {error.strerror}") from error
    await Controller(path, leader, weights, log, time.time, probes.turned).run()


def _weights(file: Path, config_map: str | None) -> "WeightsStore":
    """Return where the weights are kept: in a ConfigMap if one is named, else in the file itself."""
    from router_service.rollout.weights_store import SharedFile

    if config_map is None:
        return SharedFile()
    namespace, slash, name = config_map.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise BadInput(f'--config-map: "{config_map}" is not NAMESPACE/NAME')
    from router_service.rollout.config_map import ConfigMapStore

    return ConfigMapStore(namespace, name, file)


def _leader(path: Path, config: RouterConfig) -> "Leader":
    """Return the lock: in Redis if the configuration has one, else on a file next to the weights file."""
    from router_service.rollout.leader import FileLeader, RedisLeader

    redis = config.values.redis
    if redis is not None:
        return RedisLeader(redis_login(path, redis), LEADER_TIMEOUT_SECONDS, time.monotonic)
    file = path.parent / str(config.values.routing.weights_file)
    lock = file.with_name(file.name + ".lock")
    try:
        return FileLeader(lock)
    except OSError as error:
        raise BadInput(
            f"{lock}: cannot be opened: {error.strerror}; let this user write the folder, or configure redis"
        ) from error


def _status(options: argparse.Namespace) -> int:
    config = load(options.config)
    rules = [rule for rule in config.rules if rule.rollout is not None]
    for rule in rules:
        assert rule.rollout is not None
        share = config.shares.get(rule.name)
        if share is None:
            print(f"{rule.name}: not started, all requests go to {rule.route_to}")
            continue
        last = share.decided
        why = f"; last decision {last.at}: {last.action} ({last.reason})" if last is not None else ""
        print(f"{rule.name}: {share.percent:g} % to {share.to}, {share.state}, since {share.since}{why}")
    if not rules:
        print(f"{options.config}: no rule has a rollout")
    return 0


def _replay(options: argparse.Namespace) -> int:
    from router_service.rollout.plan import as_json

    count, different = 0, 0
    try:
        lines = options.file.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"{options.file}: cannot be read: {error.strerror}") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            found = _decided(line)
            if found is None:
                continue
            try:
                again = _again(found)
            except (TypeError, KeyError, ValueError) as error:
                raise BadInput(f"{options.file}:{number}: is not a whole decision: {error!r}") from error
            count += 1
            if json.loads(json.dumps(as_json(again))) != found["step"]:
                different += 1
                print(
                    f"{options.file}:{number}: recorded {_words(found['step'])}, now {_words(as_json(again))}"
                )
    if not count:
        raise BadInput(
            f"{options.file} has no rollout_decided line; give the log of `router-service rollout run`"
        )
    print(f"{count} steps, {different} different")
    return 1 if different else 0


def _decided(line: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and fields.get("event") == "rollout_decided" else None


def _again(found: dict[str, Any]) -> "Step":
    from router_service.rollout.next_step import next_step
    from router_service.rollout.plan import evidence_from, plan_from, state_from

    return next_step(state_from(found["state"]), evidence_from(found["evidence"]), plan_from(found["plan"]))


def _words(step: dict[str, Any]) -> str:
    return f"{step['action']} ({step['reason']}) at {step['percent']:g} %"
