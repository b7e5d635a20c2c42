"""The part of the API server that the router uses:

EndpointSlices over TLS, for service accounts that their Roles allow.
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

    ``allowed(account, verb, resource, namespace)`` is called for every request; ``accounts`` maps tokens to
    accounts.
    """

    def __init__(
        self,
        host: str,
        slices: Callable[[str, str], list[Document]],
        allowed: Callable[[str, str, str, str], bool],
    ) -> None:
        self.accounts: dict[str, str] = {}
        self.refused: list[str] = []
        self._slices = slices
        self._allowed = allowed
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

    def _handler(api) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                asked = {key: values[0] for key, values in parse_qs(url.query).items()}
                parts = url.path.strip("/").split("/")
                verb = "watch" if asked.get("watch") in ("true", "True", "1") else "list"
                account = api.accounts.get(self.headers.get("authorization", "").removeprefix("Bearer "), "")
                if len(parts) != 6 or parts[:4] != ["apis", "discovery.k8s.io", "v1", "namespaces"]:
                    return self._say(404, {"kind": "Status", "code": 404, "message": f"no {url.path}"})
                namespace, resource = parts[4], parts[5]
                if not api._allowed(account, verb, resource, namespace):
                    api.refused.append(f"{account or 'nobody'} may not {verb} {resource} in {namespace}")
                    return self._say(403, {"kind": "Status", "code": 403, "message": api.refused[-1]})
                service = asked.get("labelSelector", "").partition("kubernetes.io/service-name=")[2]
                if verb == "watch":
                    return self._watch(namespace, service, float(asked.get("timeoutSeconds", 30)))
                return self._say(200, {
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList",
                    "metadata": {"resourceVersion": str(api.version)},
                    "items": api._slices(namespace, service),
                })  # fmt: skip

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
