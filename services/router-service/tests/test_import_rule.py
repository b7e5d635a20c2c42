"""Who may import whom: the table that keeps decisions free of I/O and every outside system in its own room."""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "router_service"

ALLOWED: dict[str, set[str]] = {
    # RE2 is a pure function of pattern and text (docs/adr/0201)
    "routing": {"routing", "resilience", "re2"},
    "resilience": {"resilience", "routing"},
    "ports": {"routing"},
    "openai_api": {"openai_api", "pydantic", "orjson"},
    "config": {"config", "routing", "pydantic", "pydantic_core", "yaml"},
    "records": {"records", "routing", "openai_api"},
    "upstream": {"upstream", "ports", "routing", "resilience", "config", "telemetry", "httptools"},
    "health": {"health", "ports", "routing", "resilience", "config", "telemetry", "httpx", "orjson"},
    "affinity": {"affinity", "ports", "routing", "resilience", "config", "telemetry", "redis"},
    "discovery": {
        *("discovery", "ports", "routing", "resilience", "config", "telemetry"),
        *("kubernetes_asyncio", "aiohttp"),  # one library: its client and the errors of its transport
    },
    "telemetry": {"telemetry", "prometheus_client", "structlog", "opentelemetry", "orjson"},
    "pipeline": {
        *("pipeline", "ports", "routing", "resilience", "openai_api", "records", "config", "telemetry"),
        "orjson",
    },
    "api": {
        *("api", "pipeline", "ports", "openai_api", "records", "routing", "config", "telemetry"),
        *("fastapi", "starlette", "uvicorn", "orjson", "prometheus_client"),
    },
}
EVERYTHING = {"cli", "adapters", "app", "gauges", "main", "__init__"}


def imports(path: Path) -> set[str]:
    """Top-level packages a file imports; of our own, the package below router_service."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            names = [node.module or ""]
            if node.module == "router_service":
                names = [f"router_service.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            found.add(parts[1] if parts[0] == "router_service" and len(parts) > 1 else parts[0])
    return found - set(sys.stdlib_module_names)


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if package in EVERYTHING:
        return
    assert package in ALLOWED, f"{package} is a new package: say in this table what it may import"
    assert imports(path) <= ALLOWED[package], imports(path) - ALLOWED[package]


def test_pure_packages_use_no_clock_no_randomness_and_no_io() -> None:
    forbidden = {"time", "random", "asyncio", "socket", "os", "threading", "logging", "secrets"}
    for path in FILES:
        if path.relative_to(SOURCE).parts[0] in ("routing", "resilience"):
            used = {
                alias.name.split(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            assert not used & forbidden, path
