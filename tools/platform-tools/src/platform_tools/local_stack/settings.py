"""The settings of a local stack: profile, ports, folders. Reads the environment; starts and checks nothing."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

Profile = Literal["vllm", "sim"]
PROFILES: tuple[Profile, ...] = ("vllm", "sim")

# Variable → default port. No other file defines the local stack's ports.
DEFAULT_PORTS: Mapping[str, int] = {
    "EDGE_PORT": 8080,
    "EDGE_ADMIN_PORT": 9901,
    "EDGE_TELEMETRY_PORT": 9902,
    "RATE_LIMIT_PORT": 8081,
    "RATE_LIMIT_METRICS_PORT": 8082,
    "ROUTER_PORT": 8000,
    "ENGINE_A_PORT": 8101,
    "ENGINE_B_PORT": 8102,
    "AGENT_A_PORT": 8111,
    "AGENT_B_PORT": 8112,
    "REDIS_PORT": 6380,
    "PROMETHEUS_PORT": 9090,
    "ALERTMANAGER_PORT": 9093,
    "PICTURES_PORT": 8090,
    "CONSOLE_PORT": 8091,
    "NODE_EXPORTER_PORT": 9100,
    "REDIS_EXPORTER_PORT": 9121,
    "DCGM_PORT": 9400,
}

# A unix socket's path is limited to 107 bytes, so a long checkout path gets a socket in the temporary folder.
MAX_SOCKET_PATH = 100


class BadRequest(Exception):
    """A setting is invalid. The message names the setting and the remedy."""


@dataclass(frozen=True)
class Settings:
    """One local stack. Two checkouts, or two run folders with different ports, are two stacks."""

    root: Path
    run_dir: Path
    profile: Profile
    ports: Mapping[str, int]
    router_config: Path
    edge_settings: Path

    @property
    def platform_bin(self) -> Path:
        return self.root / ".venv" / "bin"

    @property
    def vllm_python(self) -> Path:
        return self.root / ".venv-vllm" / "bin" / "python"

    @property
    def model_dir(self) -> Path:
        """The converted weights; every stack of a checkout shares them."""
        return self.root / ".run" / "models" / "smollm2-135m-instruct"

    @property
    def logs(self) -> Path:
        return self.run_dir / "logs"

    @property
    def client_env(self) -> Path:
        return self.run_dir / "client.env"

    @property
    def keys_file(self) -> Path:
        return self.run_dir / "edge" / "keys.yaml"

    @property
    def supervisor_socket(self) -> Path:
        inside = self.run_dir / "supervisor.sock"
        if len(str(inside)) <= MAX_SOCKET_PATH:
            return inside
        digest = hashlib.sha256(str(self.run_dir).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"llm-stack-{digest}.sock"

    def port(self, variable: str) -> int:
        return self.ports[variable]

    def url(self, variable: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[variable]}{path}"

    @property
    def stack_file(self) -> Path:
        return self.run_dir / "stack.json"

    def remember(self) -> None:
        """Store the settings of this stack, so that `make status` needs no variables."""
        self.stack_file.write_text(
            json.dumps(
                {
                    "profile": self.profile,
                    "ports": dict(self.ports),
                    "router_config": str(self.router_config),
                    "edge_settings": str(self.edge_settings),
                },
                indent=2,
            )
            + "\n"
        )


def load_settings(root: Path, environment: Mapping[str, str]) -> Settings:
    """Return the settings: environment variables first, then those of the running stack.

    Raises:
        BadRequest: an unknown profile, an invalid port, or one port for two parts.
    """
    run_dir = Path(environment.get("RUN_DIR") or root / ".run")
    run_dir = run_dir if run_dir.is_absolute() else root / run_dir
    remembered = _remembered(run_dir / "stack.json")
    profile = environment.get("PROFILE") or str(remembered.get("profile") or "vllm")
    if profile not in PROFILES:
        raise BadRequest(f'PROFILE="{profile}" is not a profile (known: {", ".join(PROFILES)})')
    old_ports = remembered_ports(run_dir)
    ports: dict[str, int] = {}
    for variable, default in DEFAULT_PORTS.items():
        given = environment.get(variable)
        ports[variable] = _port(variable, given) if given else old_ports.get(variable, default)
    _refuse_doubled(ports)

    def file(variable: str, default: str) -> Path:
        path = Path(environment.get(variable) or str(remembered.get(variable.lower()) or default))
        return path if path.is_absolute() else root / path

    return Settings(
        root=root,
        run_dir=run_dir,
        profile=profile,
        ports=ports,
        router_config=file("ROUTER_CONFIG", "services/router-service/config/local.yaml"),
        edge_settings=file("EDGE_SETTINGS", "services/edge-gateway/envoy/local.yaml"),
    )


def remembered_ports(run_dir: Path) -> dict[str, int]:
    """Return the ports that the stack of a run folder was started with; none where no stack runs."""
    return cast(dict[str, int], _remembered(run_dir / "stack.json").get("ports") or {})


def _remembered(stack_file: Path) -> dict[str, object]:
    try:
        document = json.loads(stack_file.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _port(variable: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise BadRequest(f'{variable}="{text}" is not a port (1 to 65535)')
    return int(text)


def _refuse_doubled(ports: Mapping[str, int]) -> None:
    owner: dict[int, str] = {}
    for variable, port in ports.items():
        if port in owner:
            raise BadRequest(f"{owner[port]} and {variable} are both {port}; give one of them another port")
        owner[port] = variable
