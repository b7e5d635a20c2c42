"""The part of the API server that the router uses, over TLS, for service accounts that their Roles allow:

lists and watches of EndpointSlices, and get and server-side apply of ConfigMaps.
"""

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

Document = dict[str, Any]


class ApiServer:
    """Serves lists and watches of what ``slices`` returns; ``changed`` wakes the watches.

    ``allowed(account, verb, resource, namespace, name)`` is called for every request; ``accounts`` maps tokens to
    accounts. ``config_maps(namespace)`` returns the ConfigMaps by name, ``put`` stores one.
    """

    def __init__(
        self,
        host: str,
        slices: Callable[[str, str], list[Document]],
        allowed: Callable[[str, str, str, str, str], bool],
        config_maps: Callable[[str], Mapping[str, Document]],
        put: Callable[[str, Document], None],
    ) -> None:
        self.accounts: dict[str, str] = {}
        self.refused: list[str] = []
        self._slices = slices
        self._allowed = allowed
        self._config_maps = config_maps
        self._put = put
        self._version = 1
        self._moved = threading.Condition()
        self._closed = False
        authority = trustme.CA()
        self.certificate = authority.cert_pem.bytes().decode()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("10.96.0.1", "kubernetes.default.svc").configure_cert(context)
        server = ThreadingHTTPServer((host, 6443), self._handler())
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self._server = server
        threading.Thread(target=server.serve_forever, daemon=True).start()

    @property
    def version(self) -> int:
        """Return the current resource version."""
        return self._version

    def changed(self) -> None:
        """Notify the watches of a change."""
        with self._moved:
            self._version += 1
            self._moved.notify_all()

    def close(self) -> None:
        """End every watch and the server."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _apply(self, account: str, namespace: str, name: str, body: Document) -> tuple[int, Document]:
        """Create or change a ConfigMap as server-side apply does: `create` for a new one, 409 for an old version."""
        found = self._config_maps(namespace).get(name)
        if found is None and not self._allowed(account, "create", "configmaps", namespace, name):
            return self._forbidden(account, "create", "configmaps", namespace)
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != (found or {}).get("metadata", {}).get("resourceVersion"):
            return 409, {"kind": "Status", "code": 409, "message": "the object has been modified"}
        self.changed()
        body["metadata"]["resourceVersion"] = str(self.version)
        self._put(namespace, body)
        return 200, body

    def _forbidden(self, account: str, verb: str, resource: str, namespace: str) -> tuple[int, Document]:
        self.refused.append(f"{account or 'nobody'} may not {verb} {resource} in {namespace}")
        return 403, {"kind": "Status", "code": 403, "message": self.refused[-1]}

    def _config_map(self, token: str, verb: str, path: str, body: Document) -> tuple[int, Document]:
        """Answer a request for one ConfigMap."""
        namespace, name = path.split("/")[-3], path.split("/")[-1]
        account = self.accounts.get(token, "")
        if not self._allowed(account, verb, "configmaps", namespace, name):
            return self._forbidden(account, verb, "configmaps", namespace)
        if verb == "patch":
            return self._apply(account, namespace, name, body)
        found = self._config_maps(namespace).get(name)
        return (
            (200, found)
            if found is not None
            else (404, {"kind": "Status", "code": 404, "message": "not found"})
        )

    def _get(self, token: str, parts: list[str], asked: Mapping[str, str]) -> tuple[int, Document] | None:
        """Answer a read, with None for a watch that is allowed."""
        if len(parts) == 6 and parts[:2] == ["api", "v1"] and parts[4] == "configmaps":
            return self._config_map(token, "get", "/".join(parts), {})
        verb = "watch" if asked.get("watch") in ("true", "True", "1") else "list"
        account = self.accounts.get(token, "")
        if len(parts) != 6 or parts[:4] != ["apis", "discovery.k8s.io", "v1", "namespaces"]:
            return 404, {"kind": "Status", "code": 404, "message": f"no /{'/'.join(parts)}"}
        namespace, resource = parts[4], parts[5]
        if not self._allowed(account, verb, resource, namespace, ""):
            return self._forbidden(account, verb, resource, namespace)
        if verb == "watch":
            return None
        return 200, {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList",
            "metadata": {"resourceVersion": str(self.version)},
            "items": self._slices(namespace, _service(asked)),
        }  # fmt: skip

    def _handler(api) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                asked = {key: values[0] for key, values in parse_qs(url.query).items()}
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                answer = api._get(token, url.path.strip("/").split("/"), asked)
                if answer is not None:
                    return self._say(*answer)
                return self._watch(
                    url.path.split("/")[5], _service(asked), float(asked.get("timeoutSeconds", 30))
                )

            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.headers["content-type"] != "application/apply-patch+yaml":
                    return self._say(
                        415, {"kind": "Status", "code": 415, "message": "only server-side apply"}
                    )
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                return self._say(*api._config_map(token, "patch", urlsplit(self.path).path, body))

            def _watch(self, namespace: str, service: str, seconds: float) -> None:
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("connection", "close")
                self.end_headers()
                shown: Mapping[str, Any] = {}
                while not api._closed:
                    for item in api._slices(namespace, service):
                        if shown.get(item["metadata"]["name"]) != item["endpoints"]:
                            shown = {**shown, item["metadata"]["name"]: item["endpoints"]}
                            line = json.dumps({"type": "MODIFIED", "object": item}) + "\n"
                            try:
                                self.wfile.write(line.encode())
                                self.wfile.flush()
                            except OSError:
                                return
                    with api._moved:
                        api._moved.wait(min(seconds, 1.0))
                self.close_connection = True

            def _say(self, status: int, body: Document) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                """Quiet."""

        return Handler


def _service(asked: Mapping[str, str]) -> str:
    """Return the Service that a request's label selector names."""
    return asked.get("labelSelector", "").partition("kubernetes.io/service-name=")[2]
