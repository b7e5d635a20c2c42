"""Arguments of the commands, and what each prints. Exit 0: fine; 1: a difference or a failed test; 2: bad input."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from router_service.cli.lint import lint
from router_service.cli.rule_tests import run_rule_tests
from router_service.cli.trial import try_request
from router_service.config import BadConfig, RouterConfig, load
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.records.explain import explain
from router_service.records.replay import as_text, replay
from router_service.routing.features import TooDeep


class BadInput(Exception):
    """The command cannot do what was asked; the message says why and what would help."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the arguments of every command but ``serve``."""
    check = commands.add_parser("check", help="validate and lint a configuration, run its rule tests")
    check.add_argument("--config", type=Path, required=True)
    check.set_defaults(run=_check)

    decide = commands.add_parser("decide", help="dry run: where would this request go, and why")
    decide.add_argument("--config", type=Path, required=True)
    decide.add_argument(
        "--request", type=Path, required=True, help="a file with the request body, or - for stdin"
    )
    decide.add_argument(
        "--header", action="append", default=[], metavar="K=V", help="a request header; may repeat"
    )
    decide.add_argument("--path", default="/v1/chat/completions")
    decide.add_argument("--client", default="", help="who is asking")
    decide.set_defaults(run=_decide)

    explaining = commands.add_parser("explain", help="what happened to a request, in sentences")
    explaining.add_argument("id", help="the request's x-request-id")
    where = explaining.add_mutually_exclusive_group()
    port = os.environ.get("ROUTER_PORT", "8000")
    where.add_argument("--url", default=f"http://127.0.0.1:{port}", help="the router that handled it")
    where.add_argument("--log", type=Path, help="the router's log instead")
    explaining.set_defaults(run=_explain)

    replaying = commands.add_parser("replay", help="decide recorded requests by other rules and compare")
    replaying.add_argument("--config", type=Path, required=True, help="the configuration to compare with")
    replaying.add_argument("file", type=Path, help="the router's log")
    replaying.add_argument("--json", action="store_true", help="print JSON")
    replaying.set_defaults(run=_replay)


def run(options: argparse.Namespace) -> int:
    """Run the chosen command; a person's mistake ends in one sentence and exit code 2."""
    try:
        return int(options.run(options))
    except (BadConfig, BadInput) as problem:
        print(problem, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left
        return 0


def _check(options: argparse.Namespace) -> int:
    config = load(options.config)
    warnings = lint(config)
    for warning in warnings:
        print(f"warning: {warning}")
    failures = run_rule_tests(config)
    for failure in failures:
        print(f"failed: {failure}")
    print(
        f"{options.config}: configuration {config.hash}, {len(config.policy.rules)} rules, "
        f"{len(config.tests)} tests, {len(failures)} failed, {len(warnings)} warnings"
    )
    return 1 if failures else 0


def _decide(options: argparse.Namespace) -> int:
    config = load(options.config)
    text = sys.stdin.read() if str(options.request) == "-" else _text(options.request)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{options.request}: not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadInput(f"{options.request}: a request body is a JSON object, not {type(body).__name__}")
    headers: dict[str, str] = {}
    for pair in options.header:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f'--header "{pair}": write it as name=value')
        headers[name.lower()] = value
    if options.path not in INFERENCE_PATHS:
        raise BadInput(f'--path "{options.path}" is no inference path (known: {", ".join(INFERENCE_PATHS)})')
    try:
        record, decision = try_request(
            config, body, path=options.path, headers=headers, client_id=options.client
        )
    except TooDeep as error:
        raise BadInput(f"{options.request}: {error}") from error
    print(json.dumps(record.as_dict(whole=True), indent=2))
    return 0 if decision.chosen is not None else 1


def _explain(options: argparse.Namespace) -> int:
    if options.log is not None:
        found = [r for r in _records(options.log) if r is not None and r.get("request_id") == options.id]
        if not found:
            raise BadInput(f"{options.log} has no decision record of {options.id}")
        return _print_explained(found[-1], str(options.log))
    try:
        response = httpx.get(
            f"{options.url.rstrip('/')}/debug/decisions/{quote(options.id, safe='')}", timeout=5.0
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadInput(f"{options.url} does not answer ({error}); --log FILE reads a log instead") from error
    if response.status_code != 200:
        raise BadInput(
            f"{options.url} knows no request {options.id}: it may be another replica's, or forgotten; "
            "--log FILE reads a log instead"
        )
    try:
        record = response.json()
    except ValueError as error:
        raise BadInput(f"{options.url} is no router: its answer is not JSON ({error})") from error
    return _print_explained(record, options.url)


def _print_explained(record: Any, where: str) -> int:
    try:
        print(explain(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"what {where} has is no decision record: {type(error).__name__}: {error}") from error
    return 0


def _replay(options: argparse.Namespace) -> int:
    config: RouterConfig = load(options.config)
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
                    "moves": moves,
                },
                indent=2,
            )
        )
    else:
        print(as_text(result))
    return 1 if result.different else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error


def _records(path: Path) -> Iterator[Mapping[str, Any] | None]:
    """Yield each line of a log as a record, None for a line that is none."""
    try:
        with path.open("rb") as lines:  # a log may be larger than memory, and hold anything
            for line in lines:
                if not line.strip():
                    continue
                try:
                    fields = json.loads(line)
                except (ValueError, RecursionError):
                    fields = None
                yield fields if isinstance(fields, dict) and "config_hash" in fields else None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The commands alone, without ``serve`` (for tests)."""
    parser = argparse.ArgumentParser(prog="router-service")
    add_commands(parser.add_subparsers(required=True))
    return run(parser.parse_args(arguments))
