"""The command `backend-agent`: serve, engine-command, start-engine, check-model, drain, load-weights.

Only connects the other modules.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from backend_agent.model_file import BadModelFile, load_model_file
from platform_contracts.free_memory import available_bytes
from platform_contracts.listening import host_of_both_families

KEEP_ALIVE_SECONDS = 60
Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Return 0 for success, 1 for a failure, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (BadModelFile, BadInput) as error:
        print(error, file=sys.stderr)
        return 2


class BadInput(Exception):
    """An option is invalid. The message names it."""


def _engine_command(options: argparse.Namespace) -> int:
    from backend_agent.engine_command import engine_command, engine_environment
    from backend_agent.vllm_arguments import check_arguments

    model = load_model_file(options.model_file)
    check_arguments(model, options.model_file)
    command = engine_command(model, options.model_path, options.host, options.port)
    document = model.model_dump(mode="json")
    print(json.dumps({"argv": command, "env": engine_environment(model), "model": document}, indent=1))
    return 0


def _check_model(options: argparse.Namespace) -> int:
    from backend_agent.starting import wrong_files, wrong_memory
    from backend_agent.vllm_arguments import check_arguments

    model = load_model_file(options.model_file)
    check_arguments(model, options.model_file)
    wrong = wrong_files(options.model_path, checksums=True)
    if not options.files_only:
        wrong += wrong_memory(model, options.model_path, available_bytes())
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


def _start_engine(options: argparse.Namespace) -> int:
    from backend_agent.engine_command import engine_command, engine_environment
    from backend_agent.starting import become_engine, wrong_files, wrong_memory
    from backend_agent.vllm_arguments import check_arguments

    model = load_model_file(options.model_file)
    check_arguments(model, options.model_file)
    path = options.model_path
    wrong = wrong_files(path, checksums=False) or wrong_memory(model, path, available_bytes())
    if wrong:
        print("\n".join(f"ERROR the engine cannot start: {line}" for line in wrong), file=sys.stderr)
        return 1
    argv = engine_command(model, path, options.host, options.port)
    try:
        become_engine([options.python, *argv[1:]], engine_environment(model))
    except OSError as error:
        raise BadInput(f"--python {options.python}: {error.strerror}") from None
    return 1


def _drain(options: argparse.Namespace) -> int:
    from backend_agent.draining import CannotDrain, drain

    try:
        empty = drain(
            options.url.rstrip("/"),
            settle_seconds=options.settle_seconds,
            limit_seconds=options.limit_seconds,
            say=lambda text: print(text, flush=True),
        )
    except CannotDrain as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if empty else 1


def _load_weights(options: argparse.Namespace) -> int:
    from backend_agent.start_phases import write_report
    from backend_agent.weights import CannotLoad, load

    began = time.monotonic()
    try:
        path = load(options.source, options.to, options.name, say=lambda text: print(text, flush=True))
    except CannotLoad as error:
        print(error, file=sys.stderr)
        return 1
    if options.report is not None:
        try:
            write_report(options.report, time.monotonic() - began)
        except OSError as error:
            print(
                f"--report {options.report}: {error.strerror}; name a file in a writable folder",
                file=sys.stderr,
            )
            return 1
    print(path)
    return 0


def _serve(options: argparse.Namespace) -> int:
    import uvicorn

    from backend_agent.agent import Agent, WatchedEngine
    from backend_agent.app import create_app
    from backend_agent.devices import device_of
    from backend_agent.judgement import Limits
    from backend_agent.start_phases import read_report
    from backend_agent.telemetry import Metrics, configure_log

    model = load_model_file(options.model_file)
    engine_url = options.engine_url.rstrip("/")
    try:
        device = device_of(options.device, urlsplit(engine_url).port or 80)
    except ValueError as error:
        raise BadInput(str(error)) from None
    configure_log()
    metrics = Metrics(options.name)
    agent = Agent(
        WatchedEngine(options.name, engine_url, options.engine_image),
        model,
        metrics,
        device=device,
        limits=Limits(
            no_progress_seconds=options.no_progress_seconds,
            no_progress_bound_seconds=options.no_progress_bound_seconds,
        ),
        restart_after_seconds=options.restart_after_seconds,
        weights_seconds=read_report(options.start_report),
    )
    uvicorn.run(
        create_app(agent, metrics),
        host=host_of_both_families(options.host),
        port=options.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="backend-agent", description="The agent of one vLLM engine.")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="Watch an engine and report its state.")
    serve.set_defaults(run=_serve)
    serve.add_argument("--name", required=True, help="the backend's name")
    serve.add_argument("--engine-url", required=True)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument("--model-file", type=Path, required=True)
    serve.add_argument(
        "--device",
        default="auto",
        help="auto, nvml, process (the engine's CPU time), none, or dcgm:URL[#label=value,...]",
    )
    serve.add_argument("--no-progress-seconds", type=float, default=12.5)
    serve.add_argument("--no-progress-bound-seconds", type=float, default=120.0)
    serve.add_argument(
        "--restart-after-seconds", type=float, default=60.0,
        help="time for which the engine may be stuck or silent before liveness fails",
    )  # fmt: skip
    serve.add_argument(
        "--engine-image", default="", help="the engine's container image, which change records name"
    )
    serve.add_argument(
        "--start-report", type=Path, help="file that load-weights --report wrote, for the start's phases"
    )
    _add_engine_commands(commands)
    empty = commands.add_parser(
        "drain", help="Become not ready and wait until no request runs (the stop hook)."
    )
    empty.set_defaults(run=_drain)
    empty.add_argument("--url", default="http://127.0.0.1:8001", help="the agent's")
    empty.add_argument("--settle-seconds", type=float, default=2.0, help="time for routers to notice")
    empty.add_argument("--limit-seconds", type=float, default=600.0)
    weights = commands.add_parser("load-weights", help="Download a model's files into the node's cache.")
    weights.set_defaults(run=_load_weights)
    weights.add_argument(
        "--source", required=True, help="s3://bucket/prefix, hf://owner/name[@revision], or a folder"
    )
    weights.add_argument("--to", type=Path, required=True, help="the cache")
    weights.add_argument("--name", required=True, help="folder in the cache")
    weights.add_argument(
        "--report", type=Path, help="write how long it took to this file, for serve --start-report"
    )
    return parser


def _add_engine_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that read a model file and the model's files."""
    engines: tuple[tuple[str, str, Run], ...] = (
        (
            "engine-command",
            "Print the engine's command line, and the model file, as JSON.",
            _engine_command,
        ),
        (
            "check-model",
            "Report each problem that would prevent a model from starting on this machine.",
            _check_model,
        ),
        (
            "start-engine",
            "Check the model's files and the memory, then replace this process by the engine.",
            _start_engine,
        ),
    )
    for name, text, run in engines:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("--model-file", type=Path, required=True)
        command.add_argument("--model-path", type=Path, required=True)
        if name == "check-model":
            command.add_argument(
                "--files-only", action="store_true", help="skip the check of this machine's memory"
            )
        else:
            command.add_argument("--host", default="127.0.0.1")
            command.add_argument("--port", type=int, required=True)
        if name == "start-engine":
            command.add_argument("--python", default="python3", help="Python interpreter with vLLM")


if __name__ == "__main__":
    sys.exit(main())
