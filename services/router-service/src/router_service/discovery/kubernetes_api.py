"""Connects to the Kubernetes API server: address, token and certificate. Must not know any kind of object."""

import socket
from typing import Any

from aiohttp.connector import AddrInfoType
from kubernetes_asyncio import client, config
from kubernetes_asyncio.config import ConfigException

from router_service.dead_peer import detect_dead_peer


async def connect() -> client.ApiClient:
    """Return a client for the pod's service account, else for the kubeconfig of the current user.

    Raises:
        ConfigException: there is neither.
    """
    try:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    except ConfigException:
        await config.load_kube_config()
    return watched_client()


def watched_client(settings: client.Configuration | None = None) -> client.ApiClient:
    """Return a client whose connections break within seconds when the API server's host is gone.

    ``settings`` are those of the pod or kubeconfig unless given.
    """
    api = client.ApiClient(settings)
    # A watch is silent while nothing changes: without this a lost API server is found only when the watch would end.
    # The client has no option for its connector's sockets.
    # No type: aiohttp declares neither the attribute nor that a pool has a connector.
    connector: Any = api.rest_client.pool_manager.connector
    connector._socket_factory = _watched_socket
    return api


def _watched_socket(address: AddrInfoType) -> socket.socket:
    """Return an unconnected socket whose connection breaks within seconds when its peer's host is gone."""
    sock = socket.socket(*address[:3])
    detect_dead_peer(sock)
    return sock
