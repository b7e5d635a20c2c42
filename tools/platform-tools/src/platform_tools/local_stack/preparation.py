"""Writes the configuration files of the parts, with the programs that own the formats. Starts no part."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from platform_tools.local_stack import parts as parts_module
from platform_tools.local_stack.credentials import write_credentials
from platform_tools.local_stack.parts import Part, engine_environment, model_file, parts_of, port_environment
from platform_tools.local_stack.router_configuration import write_router_config
from platform_tools.local_stack.settings import Settings

EXIT_BAD_INPUT = 2


class BadConfiguration(Exception):
    """A configuration file is wrong; the message comes from the file's owner, with file and line."""


def prepare(settings: Settings) -> list[Part]:
    """Write keys, configurations and folders; return the parts to run.

    Raises:
        BadConfiguration: a program refuses its configuration.
    """
    for folder in ("logs", "edge", "redis", "router", "prometheus", "alertmanager", "observability"):
        (settings.run_dir / folder).mkdir(parents=True, exist_ok=True)
    write_credentials(settings)
    (settings.run_dir / "redis" / "redis.conf").write_text(parts_module.redis_configuration(settings))
    # Run in parallel, because each program takes a second to load.
    with ThreadPoolExecutor(3) as pool:
        checked = pool.submit(check_router_config, settings)
        rendered = pool.submit(_render_observability, settings)
        commands = pool.submit(engine_commands, settings)
        checked.result()
        rendered.result()
        return parts_of(settings, commands.result())


def check_router_config(settings: Settings) -> None:
    """Validate the router's configuration with the router.

    Raises:
        BadConfiguration: with the errors and their lines.
    """
    if not settings.router_config.is_file():
        raise BadConfiguration(f"{settings.router_config}: no such file (ROUTER_CONFIG names it)")
    # Validate the original first, so that errors name the file the user edits and not the copy.
    for path in dict.fromkeys([settings.router_config, write_router_config(settings)]):
        done = _run(settings, "router-service", "check", "--config", str(path))
        if done.returncode:
            raise BadConfiguration((done.stdout + done.stderr).strip())


def engine_commands(settings: Settings) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return each engine's command line and environment; the backend's own program checks the model.

    Raises:
        BadConfiguration: it refuses the model file or the model's files.
    """
    if settings.profile == "sim":
        return {}
    model = ("--model-file", str(model_file(settings)), "--model-path", str(settings.model_dir))
    checked = _run(settings, "backend-agent", "check-model", "--files-only", *model)
    if checked.returncode:
        raise BadConfiguration((checked.stdout + checked.stderr).strip())
    program = str(Path(settings.platform_bin) / "backend-agent")
    return {
        letter: (
            [
                *(program, "start-engine", *model),
                *("--port", str(settings.port(f"ENGINE_{letter.upper()}_PORT"))),
                *("--python", str(settings.vllm_python)),
            ],
            engine_environment(),
        )
        for letter in ("a", "b")
    }


def _render_observability(settings: Settings) -> None:
    out = settings.run_dir / "observability"
    done = _run(settings, "observability", "render", "--profile", "local", "--out", str(out))
    if done.returncode:
        raise BadConfiguration((done.stdout + done.stderr).strip())


def _run(settings: Settings, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **port_environment(settings), "PROFILE": settings.profile}
    return subprocess.run(
        [str(Path(settings.platform_bin) / program), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=settings.root,
    )
