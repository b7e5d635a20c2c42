"""Converts a discovered address to a backend endpoint."""

from router_service.config.model import Discover
from router_service.ports import Endpoint


def endpoint(pool: str, address: str, discover: Discover, name: str | None = None) -> Endpoint:
    """Name a discovered backend after its pod if the pod is known, else ``pool/ip:port``."""
    host = f"[{address}]" if ":" in address else address
    health_port = discover.health_port or discover.port
    return Endpoint(
        name=name or f"{pool}/{host}:{discover.port}",
        url=f"http://{host}:{discover.port}",
        health_url=f"http://{host}:{health_port}{discover.health_path}",
    )
