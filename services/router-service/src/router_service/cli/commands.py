"""Arguments and output of the commands. Exit 0: success; 1: a difference or a failed test; 2: bad input."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from router_service.cli import what_if
from router_service.cli.bad_input import BadInput
from router_service.cli.lint import lint
from router_service.cli.rollout_commands import add_rollout
from router_service.cli.rule_tests import run_rule_tests
from router_service.config import BadConfig, RouterConfig, load
from router_service.forecast.engine_fit import CannotFit
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.dry_run import dry_run_idle
from router_service.records.edge_line import explain_edge_line
from router_service.records.explain import explain
from router_service.records.replay import as_text, replay
from router_service.routing.client_text import printable
from router_service.routing.prompt_reader import Excessive


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the arguments of every command but ``serve``."""
    _add_deciding(commands)
    _add_recorded(commands)


def _add_deciding(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that check and try a configuration."""
    check = commands.add_parser("check", help="validate and lint a configuration, run its rule tests")
    check.add_argument("--config", type=Path, required=True)
    check.set_defaults(run=_check)

    decide = commands.add_parser("decide", help="dry run: print where a request would go, and why")
    decide.add_argument("--config", type=Path, required=True)
    decide.add_argument(
        "--request", type=Path, required=True, help="a file with the request body, or - for stdin"
    )
    decide.add_argument(
        "--header", action="append", default=[], metavar="K=V", help="a request header; may repeat"
    )
    decide.add_argument("--path", default="/v1/chat/completions")
    decide.add_argument("--client", default="", help="client id of the request")
    decide.set_defaults(run=_decide)


def _add_recorded(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that read records."""
    explaining = commands.add_parser("explain", help="describe what happened to a request")
    explaining.add_argument("id", help="the request's x-request-id")
    where = explaining.add_mutually_exclusive_group()
    port = os.environ.get("ROUTER_PORT", "8000")
    where.add_argument("--url", default=f"http://127.0.0.1:{port}", help="any router: it queries its peers")
    where.add_argument("--log", type=Path, help="read the router's log instead")
    explaining.add_argument(
        "--edge-log",
        type=Path,
        default=Path(".run/logs/edge.jsonl"),
        help="the edge's log, for requests that the edge refused (default: the local stack's, if it exists)",
    )
    explaining.set_defaults(run=_explain)

    replaying = commands.add_parser("replay", help="decide recorded requests by different rules and compare")
    replaying.add_argument("--config", type=Path, required=True, help="the configuration to compare with")
    replaying.add_argument("file", type=Path, help="the router's log")
    replaying.add_argument("--json", action="store_true", help="print JSON")
    replaying.set_defaults(run=_replay)

    comparing = commands.add_parser(
        "compare-pools", help="the ledgers of two pools, part by part, with 95 %% confidence intervals"
    )
    comparing.add_argument("file", type=Path, help="the router's log")
    comparing.add_argument("a", help="a pool")
    comparing.add_argument("b", help="the pool to compare with it")
    comparing.add_argument(
        "--kind",
        choices=("auto", "requests", "copies"),
        default="auto",
        help="copies: those of A's requests that a shadow sent to B; requests: clients' requests in both; "
        "auto: copies if there are any",
    )
    comparing.add_argument(
        "--last", type=int, default=20_000, help="latest records of each pool that are compared"
    )
    comparing.add_argument("--json", action="store_true", help="print JSON")
    comparing.set_defaults(run=_compare_pools)

    asking = commands.add_parser(
        "what-if", help="the first tokens of a recorded load on other numbers of engines"
    )
    asking.add_argument(
        "--config", type=Path, required=True, help="the configuration that the load was recorded with"
    )
    asking.add_argument("file", type=Path, help="the router's log")
    asking.add_argument("--engines", type=int, help="default: as many as were recorded")
    asking.add_argument("--rate", type=float, default=1.0, help="how many times faster the requests arrive")
    asking.add_argument("--pool", help="default: the configuration's default pool")
    asking.add_argument(
        "--slots", type=int, help="requests that an engine runs at once; default: the recorded limit"
    )
    asking.add_argument("--objective-seconds", type=float, default=2.0, help="of the time to first token")
    asking.add_argument("--json", action="store_true", help="print JSON")
    asking.set_defaults(run=_what_if)
    add_rollout(commands)


def run(options: argparse.Namespace) -> int:
    """Run the chosen command; print bad input as one sentence and return exit code 2."""
    try:
        return int(options.run(options))
    except (BadConfig, BadInput) as problem:
        print(problem, file=sys.stderr)
        return 2
    except BrokenPipeError:  # The reader of the output closed the pipe.
        return 0


def _check(options: argparse.Namespace) -> int:
    config = load(options.config)
    warnings = [*config.warnings, *lint(config)]
    for warning in warnings:
        print(f"warning: {warning}")
    failures = run_rule_tests(config)
    for failure in failures:
        print(f"failed: {failure}")
    print(
        f"{_read_files(config)}: configuration {config.hash}, {len(config.policy.rules)} rules, "
        f"{len(config.tests)} tests, {len(failures)} failed, {len(warnings)} warnings"
    )
    return 1 if failures else 0


def _read_files(config: RouterConfig) -> str:
    """Return the files that a configuration was read from; `rules_file` may name a different file than the user
    expects.
    """
    main, *rules = config.files
    return f"{main} with the rules file {rules[0].absolute()}" if rules else f"{main} (no rules file)"


def _decide(options: argparse.Namespace) -> int:
    config = load(options.config)
    text = sys.stdin.read() if str(options.request) == "-" else _text(options.request)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{options.request}: not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadInput(
            f"{options.request}: the request body must be a JSON object, not {type(body).__name__}"
        )
    headers: dict[str, str] = {}
    for pair in options.header:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f'--header "{pair}": write it as name=value')
        headers[name.lower()] = value
    if options.path not in INFERENCE_PATHS:
        raise BadInput(
            f'--path "{options.path}" is not an inference path (known: {", ".join(INFERENCE_PATHS)})'
        )
    try:
        record, decision = dry_run_idle(
            config, body, path=options.path, headers=headers, client_id=options.client
        )
    except Excessive as error:
        raise BadInput(f"{options.request}: {error}") from error
    print(f"decided by {_read_files(config)}", file=sys.stderr)
    print(json.dumps(record.as_dict(whole=True), indent=2))
    return 0 if decision.chosen is not None else 1


def _explain(options: argparse.Namespace) -> int:
    if options.log is not None:
        records = _records(options.log, copies=True)
        found = [r for r in records if r is not None and r.get("request_id") == options.id]
        if not found:
            raise BadInput(f"{options.log} has no decision record of {options.id}")
        return _print_explained(found[-1], str(options.log))
    try:
        response = httpx.get(
            f"{options.url.rstrip('/')}/debug/decisions/{quote(options.id, safe='')}",
            timeout=10.0,
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadInput(f"{options.url} does not answer ({error}); --log FILE reads a log instead") from error
    if response.status_code == 404 and (line := _edge_line(options.edge_log, options.id)) is not None:
        print(printable(explain_edge_line(line)))
        return 0
    if response.status_code != 200:
        raise BadInput(
            f"{options.url}: {_error_message(response)}; the record may have been dropped: --log FILE reads a log instead"
        )
    try:
        record = response.json()
    except ValueError as error:
        raise BadInput(f"{options.url} is not a router: its response is not JSON ({error})") from error
    return _print_explained(record, options.url)


def _edge_line(log: Path, request_id: str) -> Mapping[str, Any] | None:
    """Return the last line of a request in the edge's log, None without one or without the log."""
    if not log.is_file():
        return None
    found = None
    mark = json.dumps(request_id).encode()
    with log.open("rb") as lines:
        for text in lines:
            if mark not in text:
                continue
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if (
                isinstance(line, dict)
                and line.get("event") == "request"
                and line.get("request_id") == request_id
            ):
                found = line
    return found


def _error_message(response: httpx.Response) -> str:
    """Return the message of an OpenAI error, else the status."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def _print_explained(record: Any, where: str) -> int:
    try:
        print(printable(explain(record)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"the record from {where} is not a decision record: {type(error).__name__}: {error}"
        ) from error
    return 0


def _replay(options: argparse.Namespace) -> int:
    config: RouterConfig = load(options.config)
    print(f"compared with {_read_files(config)}", file=sys.stderr)
    result = replay(_records(options.file), config.policy)
    if not result.total:
        raise BadInput(
            f"{options.file} has no decision record ({result.ignored_lines} other lines): nothing was compared"
        )
    if options.json:
        moves = [
            {"from": {"pool": a, "rule": b}, "to": {"pool": c, "rule": d}, "count": count,
             "examples": result.examples[(a, b, c, d)]}
            for (a, b, c, d), count in result.moves.most_common()
        ]  # fmt: skip
        print(
            json.dumps(
                {
                    "total": result.total,
                    "same": result.same,
                    "different": result.different,
                    "cannot_tell": result.cannot_tell,
                    "ignored_lines": result.ignored_lines,
                    "copies": dict(result.copies),
                    "moves": moves,
                    "newly_refused": dict(result.newly_refused),
                },
                indent=2,
            )
        )
    else:
        print(printable(as_text(result)))
    return 1 if result.different else 0


def _what_if(options: argparse.Namespace) -> int:
    config: RouterConfig = load(options.config)
    pool = options.pool or config.policy.default_pool
    if pool not in config.policy.pools:
        raise BadInput(
            f"--pool {pool}: not a pool of {options.config} (pools: {', '.join(config.policy.pools)})"
        )
    for name in ("engines", "slots", "rate", "objective_seconds"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"--{name.replace('_', '-')} {value:g}: must be over 0")
    question = what_if.Question(pool, options.engines, options.slots, options.objective_seconds, options.rate)
    try:
        found = what_if.forecast(_records(options.file), config, question)
    except (what_if.NoLoad, CannotFit) as problem:
        raise BadInput(f"{options.file}: {problem}") from problem
    print(what_if.as_json(found) if options.json else printable(what_if.as_text(found)))
    return 0


def _compare_pools(options: argparse.Namespace) -> int:
    from router_service.cli import compare_pools as pools  # imports numpy, which a router does not need

    if options.last < 1:
        raise BadInput(f"--last {options.last}: must be at least 1")
    if options.a == options.b:
        raise BadInput(f"{options.a} and {options.b} are the same pool; name two")
    try:
        records = _records(options.file, copies=True)
        found = pools.compare_pools(records, options.a, options.b, options.kind, options.last)
    except pools.NothingToCompare as problem:
        raise BadInput(f"{options.file}: {problem}") from problem
    print(pools.as_json(found) if options.json else printable(pools.as_text(found)))
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error


def _records(path: Path, *, copies: bool = False) -> Iterator[Mapping[str, Any] | None]:
    """Yield each line of a log as a record, or None for other lines. Records of ``copies`` count as other lines unless
    they are asked for.
    """
    try:
        with path.open("rb") as lines:  # Read line by line: a log may be larger than memory.
            for line in lines:
                if not line.strip():
                    continue
                try:
                    fields = json.loads(line)
                except (ValueError, RecursionError):
                    fields = None
                is_record = isinstance(fields, dict) and "config_hash" in fields
                yield fields if is_record and (copies or "shadow_of" not in fields) else None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the commands without ``serve`` (for tests)."""
    parser = argparse.ArgumentParser(prog="router-service")
    add_commands(parser.add_subparsers(required=True))
    return run(parser.parse_args(arguments))
