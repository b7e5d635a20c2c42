"""Keeps the weights in a ConfigMap that routers mount as a volume. The controller's weights file is a copy of it.

The controller creates the ConfigMap, so that no upgrade of a chart resets it. Server-side apply creates and changes it
with one verb and by its name, so that a Role can be limited to this ConfigMap.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from kubernetes_asyncio import client
from kubernetes_asyncio.client import ApiException
from kubernetes_asyncio.config import ConfigException

from router_service.config.rollout_model import ShareSection
from router_service.discovery.kubernetes_api import connect
from router_service.rollout.weights_store import WeightsProblem, replace_file, weights_text

FIELD_MANAGER = "router-service-rollout"
APPLY = "application/apply-patch+yaml"
TIMEOUT_SECONDS = 5.0
"""A write that takes longer than the lease is harmless: another controller's write changes the version."""

CONFLICT, FORBIDDEN, NOT_FOUND = 409, 403, 404
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, ConfigException, OSError, ValueError)
"""ValueError: the response is not JSON, for example from a proxy in front of the API server."""


class ConfigMapStore:
    """The ConfigMap ``name`` in ``namespace``; its key is the name of ``file``. ``api`` is for tests."""

    def __init__(self, namespace: str, name: str, file: Path, api: client.ApiClient | None = None) -> None:
        self._namespace = namespace
        self._name = name
        self._file = file
        self._api = api
        self._version: str | None = None
        """The version that was read last: a write is refused if the ConfigMap has changed since. None: it is missing."""

    async def refresh(self) -> None:
        try:
            api = await self._core()
            found = await api.read_namespaced_config_map(
                self._name, self._namespace, _request_timeout=TIMEOUT_SECONDS
            )
        except ApiException as error:
            if error.status != NOT_FOUND:
                raise self._problem("get", error) from error
            self._version = None
            self._copy(None)
        except _UNREACHABLE as error:
            raise self._unreachable("get", error) from error
        else:
            self._version = found.metadata.resource_version
            self._copy((found.data or {}).get(self._file.name))

    async def write(self, path: Path, shares: Mapping[str, ShareSection]) -> None:
        self._file = path
        text = weights_text(shares)
        metadata: dict[str, object] = {"name": self._name, "namespace": self._namespace}
        metadata["labels"] = {"app.kubernetes.io/managed-by": FIELD_MANAGER}
        if self._version is not None:
            metadata["resourceVersion"] = self._version
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {path.name: text}}
        try:
            api = await self._core()
            # The client's types leave `_content_type` out, which its documentation has.
            written = await api.patch_namespaced_config_map(  # type: ignore[call-arg]
                self._name,
                self._namespace,
                body,
                field_manager=FIELD_MANAGER,
                # Fields that a person edited belong to this controller again; the version guards against races.
                force=True,
                _content_type=APPLY,
                _request_timeout=TIMEOUT_SECONDS,
            )
        except ApiException as error:
            raise self._problem("patch", error) from error
        except _UNREACHABLE as error:
            raise self._unreachable("patch", error) from error
        self._version = written.metadata.resource_version
        self._copy(text)

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()

    async def _core(self) -> client.CoreV1Api:
        self._api = self._api or await connect()
        return client.CoreV1Api(self._api)

    def _copy(self, text: str | None) -> None:
        """Make the controller's file equal to the ConfigMap. ``None``: routers have no file."""
        try:
            if text is None:
                self._file.unlink(missing_ok=True)
            elif not self._file.is_file() or self._file.read_text(encoding="utf-8") != text:
                replace_file(self._file, text)
        except OSError as error:
            raise WeightsProblem(
                f"{self._file}: cannot be written: {error.strerror}; give the controller a writable volume there"
            ) from error

    def _problem(self, verb: str, error: ApiException) -> WeightsProblem:
        here = f"ConfigMap {self._namespace}/{self._name}"
        said = _message(error)
        if error.status == CONFLICT:
            return WeightsProblem(
                f"{here} has changed since it was read: it is read again before the next write"
            )
        if error.status == FORBIDDEN:
            # The API server says whether `create` or `patch` is missing: applying needs both.
            return WeightsProblem(
                f"{here}: this service account may not {verb} it: {said}; let a Role in {self._namespace} (the chart's: "
                f"{self._name}) allow get, create and patch of configmaps with resourceNames [{self._name}]"
            )
        return WeightsProblem(f"{here}: {verb} failed: {error.status} {said}")

    def _unreachable(self, verb: str, error: Exception) -> WeightsProblem:
        detail = str(error) or type(error).__name__
        return WeightsProblem(
            f"ConfigMap {self._namespace}/{self._name}: {verb} failed: {detail}; check the API server, and the network "
            "policy and service account of this pod"
        )


def _message(error: ApiException) -> str:
    """Return the API server's message, else the reason of its status."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
