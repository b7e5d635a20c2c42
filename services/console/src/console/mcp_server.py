"""The console's answers as tools of the Model Context Protocol. Every tool only reads; none takes or returns a prompt.

Needs the package `mcp`, which the console's own image does not have. There is no login: the server talks to the process
that started it, or listens on loopback.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from mcp.server import MCPServer
from mcp_types import ToolAnnotations

from console import shown
from console.dry_runs import PATHS, size_body
from console.prometheus import Prometheus, Unknown
from console.routers import Routers
from console.spans import BadSpan, span_seconds, until_seconds
from observability.why_ttft.answer import Windows, as_text
from platform_contracts.log_lines import timestamp
from router_service.records.explain import explain as explain_record

READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True)
INSTRUCTIONS = (
    "Answers about an LLM inference platform: where a request went and why, why the time to first token changed, "
    "what changed, which layer is the bottleneck. Changes are reported with their times and never as causes."
)


def make_server(routers: Routers, prometheus: Prometheus) -> MCPServer[Any]:
    """Return the server with its tools."""
    server: MCPServer[Any] = MCPServer("llm-platform", instructions=INSTRUCTIONS, log_level="WARNING")
    tools: list[Callable[..., Any]] = [
        *_of_requests(routers),
        *_of_the_platform(prometheus),
    ]
    for tool in tools:
        server.tool(annotations=READ_ONLY, structured_output=False)(tool)
    return server


def _of_requests(routers: Routers) -> list[Callable[..., Any]]:
    async def explain(request_id: str) -> str:
        """Describe what happened to one request, by its x-request-id: rule, backend, attempts, times, tokens."""
        record, problem = await routers.record(request_id.strip()[:256])
        return problem if record is None else explain_record(record)

    async def decide(
        model: str, path: str = PATHS[0], max_tokens: int = 0, prompt_chars: int = 0, client: str = ""
    ) -> str:
        """Return where a request of this size would go now, and why. Sends no request to an engine."""
        if path not in PATHS:
            return f"path: {path[:64]!r} is not one of {', '.join(PATHS)}"
        body = size_body(model, str(max_tokens or ""), str(prompt_chars))
        found, problem = await routers.decide(body, path, quote(client[:128], safe="@."))
        return problem or "\n".join(explain_record(found).splitlines()[1:-1])

    return [explain, decide]


def _of_the_platform(prometheus: Prometheus) -> list[Callable[..., Any]]:
    async def why_ttft(window: str = "5m", baseline: str = "30m", until: str = "", pool: str = ".+") -> str:
        """Compare the time to first token of a window with the baseline before it: hanging requests, causes with
        milliseconds, changes. `until` is a UTC time such as 2026-01-31T12:00:00Z (default: now)."""
        try:
            end = until_seconds(until)
            start = end - span_seconds(window, "window")
            windows = Windows(start, end, start - span_seconds(baseline, "baseline"), start)
        except BadSpan as problem:
            return str(problem)
        answer = await prometheus.why(windows, pool)
        return answer.reason if isinstance(answer, Unknown) else as_text(answer)

    async def verdict() -> str:
        """Return the bottleneck of each pool now (routing, execution, capacity or none), and the firing alerts."""
        found = await prometheus.query("pool:bottleneck:verdict == 1")
        alerts = await prometheus.alerts()
        lines = (
            [f"verdicts: not known: {found.reason}"]
            if isinstance(found, Unknown)
            else [f"pool {one['metric']['pool']}: {one['metric']['verdict']}" for one in found]
            or ["no verdict yet"]
        )
        if isinstance(alerts, Unknown):
            return "\n".join([*lines, f"alerts: not known: {alerts.reason}"])
        told = [f"{shown.alert_name(one)} since {one.get('activeAt')}" for one in alerts]
        return "\n".join([*lines, *(f"alert {text}" for text in told or ["none"])])

    async def changes(window: str = "1h", until: str = "") -> str:
        """List changes of configuration, rules, engines, pools, breakers, stores, keys and alerts with UTC times."""
        try:
            end = until_seconds(until)
            start = end - span_seconds(window, "window")
        except BadSpan as problem:
            return str(problem)
        found = await prometheus.changes(start, end)
        if isinstance(found, Unknown):
            return found.reason
        return "\n".join(f"{timestamp(one.at)} {one.words}" for one in found) or "none"

    return [why_ttft, verdict, changes]


def serve(routers: Routers, prometheus: Prometheus, port: int | None) -> None:
    """Serve on stdin and stdout, or on a loopback port, until the client or a signal ends it."""
    server = make_server(routers, prometheus)
    if port is None:
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=port, stateless_http=True, json_response=True)
