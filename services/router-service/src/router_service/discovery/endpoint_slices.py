"""Backends behind a Kubernetes Service, from its EndpointSlices: listed once, then watched.

A watch ends from time to time and may lose its position (410 Gone); then all slices are listed again. While the API
server cannot be reached, the last known list stays in use.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp
from kubernetes_asyncio import client, watch
from kubernetes_asyncio.client import ApiException
from kubernetes_asyncio.config import ConfigException

from router_service.config.model import Discover
from router_service.discovery.kubernetes_api import connect
from router_service.discovery.naming import endpoint
from router_service.ports import Endpoint

WATCH_SECONDS = 240
"""How long one watch request lasts before it is renewed, below the idle timeouts of load balancers."""

MAX_RETRY_SECONDS = 10.0


class EndpointSlicesDiscovery:
    """Yields the ready endpoints of one Service whenever they change.

    A terminating endpoint is removed at once: it receives no new requests and completes its running ones. ``api`` is
    for tests; otherwise the pod's service account, or a kubeconfig, provides the API server. ``report`` is called
    with every error, and with None when the list is known again.
    """

    def __init__(
        self,
        pool: str,
        discover: Discover,
        report: Callable[[str | None], None] = lambda problem: None,
        api: client.ApiClient | None = None,
    ) -> None:
        assert discover.endpoint_slices is not None
        self._pool = pool
        self._discover = discover
        self._service = discover.endpoint_slices
        self._report = report
        self._api = api

    async def watch(self) -> AsyncIterator[Sequence[Endpoint]]:
        known: list[Endpoint] | None = None
        pause = 0.5
        while True:
            try:
                api = self._api = self._api or await connect()
                async for slices in self._follow(api):
                    pause = 0.5
                    self._report(None)
                    found = self._endpoints(slices)
                    if found != known:
                        known = found
                        yield found
                # The watch ended, as expected from time to time: list and watch again, but never in a tight loop.
                await asyncio.sleep(0.2)
                continue
            except ApiException as error:
                if error.status == 410:
                    await asyncio.sleep(0.2)
                    continue
                self._report(f"EndpointSlices of {self._service.service}: {error.status} {error.reason}")
            except (aiohttp.ClientError, TimeoutError, ConfigException, OSError, ValueError) as error:
                # ValueError: the response is not JSON, for example from a proxy in front of the API server.
                self._report(f"EndpointSlices of {self._service.service}: {type(error).__name__}: {error}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_RETRY_SECONDS)

    async def close(self) -> None:
        """Close the connection to the API server."""
        if self._api is not None:
            await self._api.close()

    async def _follow(self, api: client.ApiClient) -> AsyncIterator[Mapping[str, Any]]:
        """Yield all slices by name: after listing them, and after every change, until the watch ends."""
        slices_api = client.DiscoveryV1Api(api)
        selector = f"kubernetes.io/service-name={self._service.service}"
        namespace = self._service.namespace
        listed = await slices_api.list_namespaced_endpoint_slice(namespace, label_selector=selector)
        slices: dict[str, Any] = {item.metadata.name: item for item in listed.items}
        yield slices
        async with watch.Watch() as watching:
            events = watching.stream(
                slices_api.list_namespaced_endpoint_slice,
                namespace,
                label_selector=selector,
                resource_version=listed.metadata.resource_version,
                timeout_seconds=WATCH_SECONDS,
            )
            async for event in events:
                item = event["object"]
                if event["type"] == "DELETED":
                    slices.pop(item.metadata.name, None)
                elif event["type"] in ("ADDED", "MODIFIED"):
                    slices[item.metadata.name] = item
                yield slices

    def _endpoints(self, slices: Mapping[str, Any]) -> list[Endpoint]:
        found: dict[str, Endpoint] = {}
        for item in slices.values():
            for member in item.endpoints or ():
                conditions = member.conditions
                if conditions is not None and (conditions.ready is False or conditions.terminating):
                    continue
                target = member.target_ref
                name = target.name if target is not None and target.kind == "Pod" else None
                for address in member.addresses or ():
                    one = endpoint(self._pool, address, self._discover, name)
                    found[one.name] = one  # A pod may be in two slices while they are rebalanced.
        return [found[name] for name in sorted(found)]
