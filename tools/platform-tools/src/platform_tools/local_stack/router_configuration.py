"""The router's configuration with the addresses of this stack.

It replaces ports without interpreting them; the router's own port is an option of its command.
"""

import re
from pathlib import Path

from platform_tools.local_stack.settings import DEFAULT_PORTS, Settings

# An address 127.0.0.1:PORT in the local configuration.
ADDRESSES = ("ENGINE_A_PORT", "ENGINE_B_PORT", "AGENT_A_PORT", "AGENT_B_PORT", "REDIS_PORT")


def router_config_in_use(settings: Settings) -> Path:
    """Return the file that the router reads: the given file, or its copy with this stack's addresses."""
    if all(settings.port(name) == DEFAULT_PORTS[name] for name in ADDRESSES):
        return settings.router_config
    return settings.run_dir / "router" / "router.yaml"


def write_router_config(settings: Settings) -> Path:
    """Write the copy if one is needed; return the file that the router reads."""
    path = router_config_in_use(settings)
    if path != settings.router_config:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            with_ports(settings.router_config.read_text(), settings, settings.router_config.parent)
        )
    return path


def with_ports(text: str, settings: Settings, folder: Path) -> str:
    """Return a configuration with this stack's addresses and, line by line, nothing else changed.

    Line numbers do not change, so that errors name the lines of the original.
    A relative ``rules_file`` is resolved against ``folder``.
    """
    by_default = {DEFAULT_PORTS[name]: settings.port(name) for name in ADDRESSES}

    def address(match: re.Match[str]) -> str:
        return f"127.0.0.1:{by_default.get(int(match[1]), int(match[1]))}"

    text = re.sub(r"127\.0\.0\.1:(\d+)", address, text)
    return re.sub(
        r"^(\s*rules_file: )(?!/)(\S+)",
        lambda match: f"{match[1]}{folder / match[2]}",
        text,
        flags=re.MULTILINE,
    )
