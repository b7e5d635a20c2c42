"""Every PromQL query in this repository finds its metrics and labels and returns series on a running stack.

A renamed metric fails here instead of emptying a dashboard. A list names every query that may be empty, with
the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest

from harness.judges.every_query import every_query
from harness.judges.promql_names import grouping_labels, selectors
from harness.stacks.cause_matrix import TIME_SCALE
from harness.stacks.observed import Observed
from observability.rules.time_scale import TimeScale

pytestmark = [pytest.mark.service, pytest.mark.timeout(400)]

SCALE = TimeScale(TIME_SCALE)


@dataclass(frozen=True)
class MayBeEmpty:
    """``part`` of a selector or expression that may have no series, the file that uses it, and the reason."""

    part: str
    owner: str
    reason: str


MAY_BE_EMPTY = (
    MayBeEmpty(
        "backend_device_cpu_cores",
        "inference-backend",
        "only an engine without a GPU has it; these have simulated GPUs",
    ),
    MayBeEmpty(
        'outcome=~"refused|timeout"',
        "router-service",
        "the series begins with the first request with this outcome",
    ),
    *(
        MayBeEmpty(name, "router-service", "a series exists only of a backend in trouble")
        for name in (
            "router_backend_rejected",
            "router_backend_failed_attempts_total",
            "router_backend_round_trip_seconds",
            "router_backend_tcp_repaired_total",
        )
    ),
    MayBeEmpty(
        "router_rollout_",
        "router-service",
        "only a rule with a rollout has a series; test_guarded_rollout.py of the router reads them",
    ),
    MayBeEmpty(
        "router_change_time_seconds",
        "router-service",
        "only a change has a series; test_changes_listed.py reads it",
    ),
    MayBeEmpty(
        "router_rule_info",
        "router-service",
        "this stack has no rules; test_changes_listed.py reads it",
    ),
    MayBeEmpty(
        "router_held_requests",
        "router-service",
        "no pool of this stack holds requests; test_from_zero.py of the router reads it",
    ),
    MayBeEmpty(
        "router_holds_total",
        "router-service",
        "the same: test_from_zero.py of the router reads it",
    ),
    MayBeEmpty(
        "router_shadow_",
        "router-service",
        "no rule of this stack has a shadow; test_shadow_traffic.py of the router reads these metrics",
    ),
    MayBeEmpty(
        "router_class_",
        "router-service",
        "this stack configures no classes; test_classes_of_requests.py of the router reads these metrics",
    ),
    MayBeEmpty(
        "rate_limit_",
        "rate-limit-service",
        "this stack has no token budgets; services/edge-gateway/tests/test_rates_and_budgets.py reads these metrics",
    ),
    MayBeEmpty(
        "envoy_cluster_ratelimit_budget_",
        "edge-gateway",
        "the same: without budgets Envoy calls no rate limit service",
    ),
    MayBeEmpty(
        "ALERTS",
        "observability",
        "Prometheus writes it while an alert is pending; the cause matrix checks it",
    ),
)


def allowed(text: str) -> bool:
    return any(entry.part in text for entry in MAY_BE_EMPTY)


@pytest.fixture(scope="module")
def count(observed_stack: Observed) -> Callable[[str], int]:
    """Return how many series an expression has, after half a minute of traffic."""
    observed_stack.wait_for_history()

    @cache
    def ask(expression: str) -> int:
        return len(observed_stack.platform.query(expression))

    return ask


def test_there_is_something_to_ask_of_every_kind() -> None:
    who = {asked.who.split(":")[0].split(" ")[0] for asked in every_query(SCALE)}
    assert {
        "dashboard",
        "rule",
        "alert",
        "scripts/why-ttft",
        "scripts/render-dashboards",
        "load",
        "KEDA",
    } <= who
    assert any(one.startswith("docs/runbooks/") for one in who)


def test_every_metric_and_label_of_every_query_is_there(count: Callable[[str], int]) -> None:
    wrong = []
    for asked in every_query(SCALE):
        found = selectors(asked.expression)
        for selector in found:
            if not count(selector.metric) and not allowed(selector.metric):
                wrong.append(f"{asked.who}: no metric {selector.metric}")
            for label, _ in selector.matchers:
                if not count(f'{selector.metric}{{{label}!=""}}') and not allowed(selector.metric):
                    wrong.append(f"{asked.who}: {selector.metric} has no label {label}")
        for label in grouping_labels(asked.expression):
            if not any(count(f'{one.metric}{{{label}!=""}}') for one in found) and not allowed(
                asked.expression
            ):
                wrong.append(f"{asked.who}: no metric of {asked.expression!r} has the label {label}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def test_every_selector_and_every_question_has_an_answer(count: Callable[[str], int]) -> None:
    empty = []
    for asked in every_query(SCALE):
        for selector in selectors(asked.expression):
            if not count(selector.text) and not allowed(selector.text):
                empty.append(f"{asked.who}: {selector.text} is empty")
        if not asked.only_selectors and not count(asked.expression) and not allowed(asked.expression):
            empty.append(f"{asked.who}: {asked.expression} is empty")
    assert not empty, "\n".join(dict.fromkeys(empty))


def test_the_list_of_what_may_be_empty_has_no_entry_that_nobody_asks() -> None:
    expressions = [asked.expression for asked in every_query(SCALE)]
    for entry in MAY_BE_EMPTY:
        assert any(entry.part in expression for expression in expressions), entry


@pytest.mark.parametrize(
    "text", ["sum(router_requests)", 'router_requests_total{pools="general"}', "sum by (poool) (up)"]
)
def test_a_renamed_metric_or_label_would_be_seen(text: str, count: Callable[[str], int]) -> None:
    found = selectors(text)
    seen = [
        *(not count(selector.metric) for selector in found),
        *(not count(f'{s.metric}{{{label}!=""}}') for s in found for label, _ in s.matchers),
        *(not count(f'{found[0].metric}{{{label}!=""}}') for label in grouping_labels(text)),
    ]
    assert any(seen)
