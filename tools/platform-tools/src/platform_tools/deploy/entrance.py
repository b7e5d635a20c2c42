"""Sends the last request of a deployment: through the edge's load balancer if it has one, else a forwarded port."""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platform_tools.deploy.first_request import ask, forwarded
from platform_tools.deploy.prerequisites import Cluster
from platform_tools.deploy.releases import BadRequest

EDGE = "edge-gateway"


@dataclass(frozen=True)
class EdgeService:
    """The edge's Service as rendered. ``scheme`` is the name of its port."""

    namespace: str
    port: int
    scheme: str
    has_load_balancer: bool
    tls_secret: str | None


def edge_service(documents: Sequence[tuple[str, dict[str, Any]]]) -> EdgeService:
    """Return the edge's Service and its certificate from the rendered manifests."""
    found = {
        one["kind"]: (namespace, one["spec"])
        for namespace, one in documents
        if one["kind"] in ("Service", "Deployment") and one["metadata"]["name"] == EDGE
    }
    namespace, spec = found["Service"]
    (port,) = spec["ports"]
    volumes = found["Deployment"][1]["template"]["spec"].get("volumes", [])
    secrets = [one["secret"]["secretName"] for one in volumes if one["name"] == "tls" and "secret" in one]
    return EdgeService(
        namespace,
        port["port"],
        port["name"],
        spec.get("type") == "LoadBalancer",
        secrets[0] if secrets else None,
    )


def last_request(
    cluster: Cluster, kubectl: Sequence[str], edge: EdgeService, key: str, wait_seconds: float
) -> list[str]:
    """Send one request and return lines about the response and its path.

    ``wait_seconds`` limits the wait for a load balancer's address, and again for its first connection.

    Raises:
        BadRequest: no answer, or a public load balancer without an address or a connection.
    """
    lines = []
    if edge.has_load_balancer:
        host = _address(cluster, edge, wait_seconds)
        if _wait(lambda: _connects(host, edge.port), 10.0 if _is_private(host) else wait_seconds):
            verify = _trust(cluster, edge) if edge.scheme == "https" else True
            answer = ask(f"{edge.scheme}://{host}:{edge.port}", key, verify=verify)
            return [f"answered through the load balancer {host}: {answer}"]
        if not _is_private(host):
            raise BadRequest(
                f"the load balancer {host} accepts no connection on port {edge.port} within {wait_seconds:.0f} s: "
                "see its targets' health in the console, and kubectl -n kube-system logs "
                "deployment/aws-load-balancer-controller"
            )
        lines.append(
            f"The load balancer {host} was NOT tried: its address is private and this machine is not in its "
            f"network. From a machine there: curl {edge.scheme}://{host}:{edge.port}/v1/models"
        )
    with (
        tempfile.TemporaryDirectory() as folder,
        forwarded(kubectl, Path(folder) / "log", edge.port, edge.scheme) as url,
    ):
        lines.insert(0, f"answered through a forwarded port: {ask(url, key, verify=False)}")
    return lines


def _address(cluster: Cluster, edge: EdgeService, wait_seconds: float) -> str:
    found: list[str] = []

    def has_one() -> bool:
        for service in cluster.get("services", "-n", edge.namespace):
            if service["metadata"]["name"] == EDGE:
                for one in service.get("status", {}).get("loadBalancer", {}).get("ingress") or []:
                    found.append(str(one.get("hostname") or one.get("ip")))
        return bool(found)

    if not _wait(has_one, wait_seconds):
        raise BadRequest(
            f"the Service {EDGE} has no load balancer after {wait_seconds:.0f} s: "
            f"kubectl -n {edge.namespace} describe service {EDGE}; "
            "kubectl -n kube-system logs deployment/aws-load-balancer-controller"
        )
    return found[0]


def _wait(is_done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            return False
        time.sleep(min(5.0, max(0.1, deadline - time.monotonic())))
    return True


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=10.0).close()
    except OSError:
        return False
    return True


def _is_private(host: str) -> bool:
    """Return whether every address of a host is private. A name that does not resolve yet counts as public."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(one).is_private for one in found)


def _trust(cluster: Cluster, edge: EdgeService) -> ssl.SSLContext:
    """Return a context that accepts only the certificate in the edge's Secret, under any host name.

    The certificate does not contain the load balancer's name, and the request carries a key.
    """
    for secret in cluster.get("secrets", "-n", edge.namespace):
        if secret["metadata"]["name"] == edge.tls_secret:
            chain = base64.b64decode(secret["data"]["tls.crt"]).decode()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=chain)
            return context
    raise BadRequest(
        f"there is no Secret {edge.tls_secret} in {edge.namespace} to check the edge's certificate"
    )
