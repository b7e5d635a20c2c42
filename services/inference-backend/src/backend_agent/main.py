"""The command `backend-agent`: serve, engine-command. Only wires the other modules."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from backend_agent.model_file import BadModelFile, ModelFile, load_model_file

KEEP_ALIVE_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit 0 fine, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        model = load_model_file(options.model_file)
    except BadModelFile as error:
        print(error, file=sys.stderr)
        return 2
    if options.command == "engine-command":
        from backend_agent.engine_command import engine_command, engine_environment

        command = engine_command(model, options.model_path, options.host, options.port)
        print(json.dumps({"argv": command, "env": engine_environment(model)}))
        return 0
    _serve(model, options)
    return 0


def _serve(model: ModelFile, options: argparse.Namespace) -> None:
    import uvicorn

    from backend_agent.agent import Agent
    from backend_agent.app import create_app
    from backend_agent.telemetry import Metrics, configure_log

    configure_log()
    metrics = Metrics(options.name)
    agent = Agent(options.name, options.engine_url.rstrip("/"), model, metrics)
    uvicorn.run(
        create_app(agent, metrics),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="backend-agent", description="The agent beside one vLLM engine.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="Watch an engine and answer for it.")
    serve.add_argument("--name", required=True, help="the backend's name")
    serve.add_argument("--engine-url", required=True)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument("--model-file", type=Path, required=True)
    command = commands.add_parser("engine-command", help="Print the engine's command line as JSON.")
    command.add_argument("--model-file", type=Path, required=True)
    command.add_argument("--model-path", type=Path, required=True)
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
