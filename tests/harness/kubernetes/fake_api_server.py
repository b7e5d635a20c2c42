"""A small stateful API server for the real kubectl: list, get, merge-patch and delete."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]

KINDS = {
    "pods": ("v1", "Pod", True),
    "events": ("v1", "Event", True),
    "nodes": ("v1", "Node", False),
    "services": ("v1", "Service", True),
    "namespaces": ("v1", "Namespace", False),
    "persistentvolumes": ("v1", "PersistentVolume", False),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim", True),
    "deployments": ("apps/v1", "Deployment", True),
    "statefulsets": ("apps/v1", "StatefulSet", True),
    "replicasets": ("apps/v1", "ReplicaSet", True),
    "daemonsets": ("apps/v1", "DaemonSet", True),
    "ingresses": ("networking.k8s.io/v1", "Ingress", True),
    "scaledobjects": ("keda.sh/v1alpha1", "ScaledObject", True),
    "secrets": ("v1", "Secret", True),
    "storageclasses": ("storage.k8s.io/v1", "StorageClass", False),
    "apiservices": ("apiregistration.k8s.io/v1", "APIService", False),
    "customresourcedefinitions": ("apiextensions.k8s.io/v1", "CustomResourceDefinition", False),
}


class FakeKubernetes:
    """The objects, by resource. ``before_read`` acts as the controllers: it is called before every response.

    ``changes`` lists the requests that changed an object, as "METHOD resource/name".
    """

    def __init__(self) -> None:
        self.objects: dict[str, list[Object]] = {resource: [] for resource in KINDS}
        self.changes: list[str] = []
        self.before_read: Callable[[], None] = lambda: None
        self.lock = threading.RLock()
        self.port = 0

    def add(self, resource: str, name: str, namespace: str = "", **fields: Any) -> Object:
        """Add an object; ``labels`` and ``annotations`` go to its metadata."""
        version, kind, namespaced = KINDS[resource]
        metadata: Object = {"name": name, "labels": fields.pop("labels", {}), "uid": f"{resource}-{name}"}
        if annotations := fields.pop("annotations", None):
            metadata["annotations"] = annotations
        if namespaced:
            metadata["namespace"] = namespace
        found = {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
        self.objects[resource].append(found)
        return found

    def kubeconfig(self, path: Path, name: str = "fake", tls_server_name: str = "") -> Path:
        """Write a kubeconfig with one cluster and context for this server; a TLS server name imitates a tunnel."""
        server = {"server": f"http://127.0.0.1:{self.port}"}
        if tls_server_name:
            server["tls-server-name"] = tls_server_name
        cluster = {"name": name, "cluster": server}
        context = {"name": "fake", "context": {"cluster": name, "user": "fake"}}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "fake",
                    "clusters": [cluster], "contexts": [context], "users": [{"name": "fake", "user": {}}],
                }
            )
        )  # fmt: skip
        return path

    def answer(self, method: str, target: str, body: Object | None) -> tuple[int, Object]:
        """One request."""
        url = urlsplit(target)
        parts = [part for part in url.path.split("/") if part]
        if method == "GET" and (discovered := _discovery(parts)) is not None:
            return 200, discovered
        with self.lock:
            self.before_read()
            resource, namespace, name = _place(parts)
            if resource not in KINDS:
                return 404, _status(404, f"no resource {url.path}")
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            found = [
                o
                for o in self.objects[resource]
                if (not namespace or o["metadata"].get("namespace") == namespace) and _selected(o, selector)
            ]
            if method == "POST":
                made = body or {}
                self.changes.append(f"POST {resource}/{made['metadata']['name']}")
                self.objects[resource].append(made)
                return 201, made
            if not name:
                version, kind, _ = KINDS[resource]
                metadata = {"resourceVersion": "1"}
                return 200, {
                    "apiVersion": version,
                    "kind": f"{kind}List",
                    "metadata": metadata,
                    "items": found,
                }
            one = next((o for o in found if o["metadata"]["name"] == name), None)
            if one is None and method == "PATCH" and resource == "namespaces":
                one = self.add(resource, name)
            if one is None:
                return 404, _status(404, f'{resource} "{name}" not found')
            if method == "GET":
                return 200, one if parts[-1] != "log" else one.get("log", {})
            self.changes.append(f"{method} {resource}/{name}")
            if method == "DELETE":
                self.objects[resource].remove(one)
                return 200, _status(200, "deleted")
            _merge(one, body or {})
            return 200, one


def _discovery(parts: list[str]) -> Object | None:
    if parts == ["version"]:
        return {"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if parts == ["apis"]:
        groups = []
        for version in sorted({version for version, _, _ in KINDS.values() if "/" in version}):
            known = {"groupVersion": version, "version": version.split("/")[1]}
            groups.append({"name": version.split("/")[0], "versions": [known], "preferredVersion": known})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = "/".join(parts[1:])
    if (parts[:1] == ["api"] and len(parts) == 2) or (parts[:1] == ["apis"] and len(parts) == 3):
        resources = [
            {
                "name": resource, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind,
                "verbs": ["get", "list", "create", "patch", "delete"],
            }
            for resource, (of, kind, namespaced) in KINDS.items()
            if of == version
        ]  # fmt: skip
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": resources,
        }
    return None


def _place(parts: list[str]) -> tuple[str, str, str]:
    """Return resource, namespace and name of a path such as /apis/apps/v1/namespaces/llm/deployments/a."""
    rest = parts[2:] if parts[:1] == ["api"] else parts[3:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    return (rest[0] if rest else ""), namespace, (rest[1] if len(rest) > 1 else "")


def _selected(found: Object, selector: str) -> bool:
    labels = found["metadata"].get("labels", {})
    return all(
        labels.get(k) == v for k, _, v in (term.partition("=") for term in selector.split(",") if term)
    )


def _merge(target: Object, patch: Object) -> None:
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def _status(code: int, message: str) -> Object:
    status = "Success" if code == 200 else "Failure"
    reason = {404: "NotFound"}.get(code, "")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": status,
        "message": message,
        "reason": reason,
        "code": code,
    }


@contextlib.contextmanager
def fake_kubernetes() -> Iterator[FakeKubernetes]:
    """Run an API server on a free port of 127.0.0.1."""
    state = FakeKubernetes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answered = state.answer(self.command, self.path, body)
            data = json.dumps(answered).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
