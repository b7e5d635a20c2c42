"""The console's pages. No page changes anything; only the replay of a rules file is a POST.

There is no login; use loopback or an authenticating proxy.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from console import shown
from console.dry_runs import PATHS, size_body
from console.prometheus import Prometheus, Unknown
from console.replay import MOST_RECORDS, CannotReplay, Replayer, read_rules
from console.routers import Routers
from console.spans import BadSpan, span_seconds, until_seconds
from observability.why_ttft.answer import POPULATIONS, Windows
from observability.why_ttft.changes import same_minute
from observability.why_ttft.report import sentence
from router_service.records.explain import explain

HERE = Path(str(files("console")))
MOST_LISTED = 200
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
OUTCOMES = ("ok", "client_error", "cancelled", "upstream_error", "truncated", "timeout", "refused")


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses that pages link to; ``trace`` has ``{trace_id}`` in it. Empty: no link."""

    trace: str = ""
    charts: str = ""


def make_app(routers: Routers, prometheus: Prometheus, links: Links = Links()) -> FastAPI:
    """Return the application; it closes ``routers`` and ``prometheus`` at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await routers.close()
        await prometheus.close()

    web = FastAPI(title="console", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    web.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    pages = Pages(routers, prometheus, links)
    served: dict[str, Callable[..., Awaitable[Response]]] = {
        "/": pages.now,
        "/requests": pages.requests,
        "/requests/{request_id}": pages.request,
        "/why": pages.why,
        "/rules": pages.rules,
        "/changes": pages.changes,
    }
    for path, page in served.items():
        web.add_api_route(path, page, methods=["GET"], response_class=Response)

    web.add_api_route("/rules/replay", pages.replay, methods=["POST"], response_class=Response)

    @web.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @web.middleware("http")
    async def add_headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        response.headers.update(HEADERS)
        return response

    @web.exception_handler(HTTPException)
    async def problem(_: Request, error: HTTPException) -> Response:
        return pages.render("problem.html", error.status_code, title="Not here", problem=str(error.detail))

    @web.exception_handler(BadSpan)
    async def bad_span(_: Request, error: BadSpan) -> Response:
        return pages.render("problem.html", 400, title="Bad value", problem=str(error))

    @web.exception_handler(RequestValidationError)
    async def bad_value(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        text = f"{first['loc'][-1]}: {first['msg']}"
        return pages.render("problem.html", 400, title="Bad value", problem=text)

    return web


class Pages:
    """One method per page; each reads its sources concurrently and renders one template."""

    def __init__(self, routers: Routers, prometheus: Prometheus, links: Links) -> None:
        self._routers = routers
        self._prometheus = prometheus
        self._links = links
        self._replayer = Replayer()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters |= {"clock": _clock, "ms": _ms, "ago": _ago}
        self._templates.tests["unknown"] = lambda value: isinstance(value, Unknown)

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Render a template with the values that every page shows."""
        values = {"read_at": time.time(), "links": self._links, **values}
        text = self._templates.get_template(template).render(**values)
        return Response(text, status, media_type="text/html; charset=utf-8")

    async def now(self, live: bool = False) -> Response:
        """State of every pool, firing alerts, backends."""
        end = time.time()
        found = await self._routers.read("/debug/backends")
        verdicts = await self._prometheus.range("pool:bottleneck:verdict == 1", end - 3600, end, 15)
        pools = verdicts
        if not isinstance(verdicts, Unknown):
            pools = shown.verdicts(verdicts, end - 3600, end, 15)
        answer = await self._prometheus.why(Windows(end - 300, end, end - 2100, end - 300), ".+")
        return self.render(
            "now.html",
            live=live,
            read_at=found.read_at,
            pools=pools,
            backends=shown.backends(found.answers.values()),
            silent=found.silent,
            alerts=await self._prometheus.alerts(),
            answer=answer,
            sentences=_sentences(answer),
        )

    async def requests(
        self,
        request: Request,
        outcome: str = "",
        slow: str = "",
        after: str = "",
        id: str = "",
        live: bool = False,
    ) -> Response:
        """Recent decisions of all routers, filtered; ``id`` opens one request."""
        if id.strip():
            return RedirectResponse(f"/requests/{quote(id.strip()[:256], safe='')}", 303)
        names = ("client", "model", "rule", "pool", "backend")
        asked = {**{name: request.query_params.get(name, "") for name in names}, "outcome": outcome}
        if outcome and outcome not in OUTCOMES:
            raise HTTPException(400, f"outcome: {outcome[:64]!r} is not one of {', '.join(OUTCOMES)}")
        parameters = {name: value for name, value in {**asked, "after": after}.items() if value}
        if parameters:
            found = await self._routers.read("/debug/decisions", {**parameters, "limit": str(MOST_LISTED)})
            listed = [one for answer in found.answers.values() for one in answer.get("decisions", [])]
        else:
            found = await self._routers.read_recent()
            listed = list(self._routers.recent(MOST_LISTED))
        least = float(slow) if re.fullmatch(r"\d{1,7}", slow) else None
        records = shown.newest(listed, MOST_LISTED, least)
        return self.render(
            "requests.html", live=live, asked={**asked, "slow": slow}, outcomes=OUTCOMES, records=records,
            silent=found.silent, most=MOST_LISTED, read_at=found.read_at,
        )  # fmt: skip

    async def request(self, request_id: str) -> Response:
        """Everything about one request."""
        record, problem = await self._routers.record(request_id)
        if record is None:
            return self.render("problem.html", 404, title="Request not found", problem=problem)
        at = shown.seconds_of(record)
        changes = await self._prometheus.changes(at - 60, at + 60)
        near = changes if isinstance(changes, Unknown) else same_minute(at, changes)
        trace = (
            self._links.trace.replace("{trace_id}", record.get("trace_id", ""))
            if record.get("trace_id")
            else ""
        )
        return self.render(
            "request.html", record=record, words=explain(record).splitlines(), bars=shown.waterfall(record),
            changes=near, trace=trace,
        )  # fmt: skip

    async def why(
        self, window: str = "5m", baseline: str = "30m", until: str = "", pool: str = ""
    ) -> Response:
        """`why-ttft` for two windows."""
        end = until_seconds(until)
        start = end - span_seconds(window, "window")
        windows = Windows(start, end, start - span_seconds(baseline, "baseline"), start)
        answer = await self._prometheus.why(windows, re.escape(pool) if pool else ".+")
        compared = [] if isinstance(answer, Unknown) else [
            (what, sentence(what, *answer.compared[what]), shown.cause_bars(answer.compared[what][2]))
            for what, _ in POPULATIONS
            if what in answer.compared
        ]  # fmt: skip
        return self.render(
            "why.html", answer=answer, compared=compared, windows=windows,
            asked={"window": window, "baseline": baseline, "until": until, "pool": pool},
        )  # fmt: skip

    async def rules(
        self,
        path: str = PATHS[0],
        model: str = "",
        max_tokens: str = "",
        prompt_chars: str = "",
        client: str = "",
    ) -> Response:
        """The rules in their order with their hits, and a dry run of a request of a given size."""
        if path not in PATHS:
            raise HTTPException(400, f"path: {path[:64]!r} is not one of {', '.join(PATHS)}")
        found = await self._routers.read("/debug/rules")
        hits = await self._prometheus.query("sum by (rule) (increase(router_requests_total[1h]))")
        await self._routers.read_recent()
        last: dict[str, dict[str, Any]] = {}
        for record in shown.newest(self._routers.recent(MOST_LISTED), 10 * MOST_LISTED):
            last.setdefault(str(record.get("rule")), record)
        tried, problem = None, ""
        if model:
            body = size_body(model, max_tokens, prompt_chars)
            tried, problem = await self._routers.decide(body, path, client)
        return self.render(
            "rules.html",
            routers=[{**a, "text": [_rule_text(r) for r in a["rules"]]} for a in found.answers.values()],
            silent=found.silent,
            read_at=found.read_at,
            hits=hits
            if isinstance(hits, Unknown)
            else {h["metric"].get("rule", ""): float(h["value"][1]) for h in hits},
            last=last,
            paths=PATHS,
            asked={
                "path": path,
                "model": model,
                "max_tokens": max_tokens,
                "prompt_chars": prompt_chars,
                "client": client,
            },
            tried=tried,
            words=explain(tried).splitlines()[1:-1] if tried else [],
            problem=problem,
            source=_rules_source(found.answers.values()),
        )

    async def replay(self, request: Request) -> Response:
        """Show the recent requests of all routers that the rules of the form would decide differently."""
        rules = ""
        result, problem = None, ""
        try:
            rules = await read_rules(request)
            routing = await self._routers.read("/debug/routing")
            if not routing.answers:
                raise CannotReplay("no router responds: " + "; ".join(routing.silent.values()))
            await self._routers.read_recent()
            records = shown.newest(self._routers.recent(MOST_RECORDS), MOST_RECORDS)
            result = await self._replayer.run(rules, next(iter(routing.answers.values())), records)
        except CannotReplay as error:
            problem = str(error)
        status = 400 if problem or (result and result.problems) else 200
        return self.render("replay.html", status, result=result, problem=problem, source=rules)

    async def changes(self, window: str = "1h", until: str = "") -> Response:
        """Changes, drawn over the mean time to first token."""
        end = until_seconds(until)
        start = end - span_seconds(window, "window")
        step = max(15.0, (end - start) / 240)
        rate = f"[{max(60, round(4 * step))}s]"
        query = f"sum(rate(router_ttft_seconds_sum{rate})) / sum(rate(router_ttft_seconds_count{rate}))"
        series = await self._prometheus.range(query, start, end, step)
        line = (
            series
            if isinstance(series, Unknown)
            else shown.line(series[0]["values"] if series else [], start, end, step)
        )
        return self.render(
            "changes.html", changes=await self._prometheus.changes(start, end), line=line, start=start, end=end,
            asked={"window": window, "until": until},
        )  # fmt: skip


def _sentences(answer: Any) -> list[str]:
    if isinstance(answer, Unknown):
        return []
    return [sentence(what, *answer.compared[what]) for what, _ in POPULATIONS if what in answer.compared]


def _rule_text(rule: dict[str, Any]) -> str:
    return str(
        yaml.safe_dump({k: v for k, v in rule.items() if k != "name"}, sort_keys=False, width=90)
    ).rstrip()


def _rules_source(answers: Iterable[dict[str, Any]]) -> str:
    """Return the rules of the first router as a rules file, "" if they are too long to edit in a page."""
    rules: list[dict[str, Any]] = next((answer["rules"] for answer in answers), [])
    text = str(yaml.safe_dump({"rules": rules}, sort_keys=False, allow_unicode=True, width=100))
    return text if rules and len(text) <= 64 * 1024 else ""


def _clock(at: float | None) -> str:
    return "an unknown time" if at is None else time.strftime("%H:%M:%S", time.gmtime(at))


def _ago(at: float | None) -> str:
    if at is None:
        return "not known"
    seconds = max(0.0, time.time() - at)
    # The space does not break: a line must not begin with the unit.
    return (
        f"{seconds:.0f}\N{NO-BREAK SPACE}s" if seconds < 120 else f"{seconds / 60:.0f}\N{NO-BREAK SPACE}min"
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
