"""The page *Now* in a terminal: verdicts, alerts, backends and the last decisions, updated every few seconds."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from console import shown
from console.prometheus import Prometheus, Unknown
from console.routers import FromAll, Routers

INTERVAL_SECONDS = 2.0
LAST_REQUESTS = 12


async def watch(routers: Routers, prometheus: Prometheus, times: int = 0) -> None:
    """Show the state until interrupted, or ``times`` times if given; without a terminal, print each state."""
    console = Console()
    shown_times = 0
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            live.update(await screen(routers, prometheus), refresh=True)
            shown_times += 1
            if times and shown_times >= times:
                return
            await asyncio.sleep(INTERVAL_SECONDS)


async def screen(routers: Routers, prometheus: Prometheus) -> RenderableType:
    """Return the current state as text; it lists what cannot be read."""
    backends, decisions, verdicts, alerts = await asyncio.gather(
        routers.read("/debug/backends"),
        routers.read_recent(),
        prometheus.query("pool:bottleneck:verdict == 1"),
        prometheus.alerts(),
    )
    lines: list[RenderableType] = [Text(time.strftime("%H:%M:%S UTC", time.gmtime()), style="dim")]
    if isinstance(verdicts, Unknown):
        lines.append(Text(f"verdicts: unknown. {verdicts.reason}", style="yellow"))
    else:
        lines += [
            Text(f"pool {v['metric']['pool']}: {v['metric']['verdict']}", style="bold") for v in verdicts
        ]
    if not isinstance(alerts, Unknown):
        lines += [Text(f"alert {a['labels']['alertname']}", style="bold red") for a in alerts]
    silent = {**backends.silent, **decisions.silent}
    lines += [Text(f"router {url}: {reason}", style="yellow") for url, reason in silent.items()]
    return Group(
        *lines, _backends(backends), _requests(shown.newest(routers.recent(LAST_REQUESTS), LAST_REQUESTS))
    )


def _backends(found: FromAll) -> Table:
    table = Table("backend", "pool", "state", "in flight", "breaker", title="Backends", title_justify="left")
    for one in shown.backends(found.answers.values()):
        breaker = f"open at {one.breakers_open}" if one.breakers_open else "closed"
        style = "" if one.good else "red"
        table.add_row(Text(one.name), one.pool, one.state, str(one.in_flight), breaker, style=style)
    return table


def _requests(records: Iterable[dict[str, Any]]) -> Table:
    head = ("time", "outcome", "client", "rule", "backend", "first token, ms", "total, ms", "request")
    table = Table(*head, title="Last requests", title_justify="left")
    for one in records:
        first, total = one.get("first_token_ms"), one.get("total_ms")
        cells = (one["time"][11:19], one["outcome"], one["client_id"], one["rule"], one["chosen"])
        numbers = tuple("–" if value is None else f"{value:.1f}" for value in (first, total))
        style = "" if one["outcome"] == "ok" else "red"
        table.add_row(
            *(Text(str(cell or "–")) for cell in cells), *numbers, one["request_id"][:12], style=style
        )
    return table
