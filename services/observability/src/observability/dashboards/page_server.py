"""Serves the dashboards' page and the runbooks on 127.0.0.1. Answers only GET and changes nothing."""

import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from markdown_it import MarkdownIt
from markupsafe import Markup

from observability.dashboards.html_page import TEMPLATES, page
from observability.prometheus_api import PagePrometheus

DOCS = Path(__file__).resolve().parents[5] / "docs"
"""The documents of the checkout from which this package is installed."""

_RUNBOOK = re.compile(r"/runbooks/(?:(\w+)\.md)?")


def runbook_page(name: str) -> str | None:
    """Return a runbook as HTML, None if there is no such runbook."""
    path = DOCS / "runbooks" / f"{name}.md"
    if not path.is_file():
        return None
    text = path.read_text()
    if name == "README":
        pages = sorted(one.stem for one in path.parent.glob("*.md") if one != path)
        text += "\n## Pages\n\n" + "\n".join(f"- [{one}]({one}.md)" for one in pages)
    # Links out of this folder lead to documents that this server does not serve.
    text = re.sub(r"\[([^\]]+)\]\((\.\./[^)]+)\)", r"\1 (`docs/\2`)", text).replace("`docs/../", "`docs/")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return TEMPLATES.get_template("runbook.html.j2").render(title=name, body=Markup(body))


def serve(port: int, prometheus_url: str) -> None:
    """Serve until the process ends. ``/?minutes=120`` shows a longer time, ``/runbooks/NAME.md`` a runbook."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/healthz":
                self._answer(200, "ok", "text/plain")
                return
            if match := _RUNBOOK.fullmatch(parts.path):
                found = runbook_page(match[1] or "README")
                if found is not None:
                    self._answer(200, found, "text/html; charset=utf-8")
                    return
            if parts.path != "/":
                self._answer(404, "not found", "text/plain")
                return
            asked = parse_qs(parts.query).get("minutes", ["15"])[0]
            minutes = min(max(int(asked), 1), 24 * 60) if asked.isdigit() else 15
            end = time.time()
            text = page(PagePrometheus(prometheus_url), end - minutes * 60, end, prometheus_url)
            self._answer(200, text, "text/html; charset=utf-8")

        def _answer(self, status: int, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Write no access log."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
