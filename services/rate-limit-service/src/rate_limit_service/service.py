"""Envoy's rate limit API on top of the budget store. Holds no state except the limits."""

import json
import math
from collections.abc import Callable, Mapping

import grpc  # type: ignore[import-untyped]
import structlog
from envoy.config.core.v3.base_pb2 import HeaderValue  # type: ignore[import-untyped]
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse  # type: ignore[import-untyped]

from rate_limit_service.budgets import Limit, Standing, budgets_of
from rate_limit_service.store import BudgetStore, LocalBudgets, StoreUnavailable
from rate_limit_service.telemetry import Telemetry

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"


class BudgetService:
    """Answers ShouldRateLimit: a descriptor with ``reserve`` reserves a budget, one with ``settle`` settles it.

    Both carry ``client`` and ``request``; ``api`` names the form of a refusal, ``assumed`` the reserved completion
    tokens of a request without a limit. Other descriptors are admitted and counted
    as not understood.
    """

    def __init__(
        self,
        store: BudgetStore,
        limit_of: Callable[[str], Limit],
        telemetry: Telemetry,
        local: LocalBudgets | None = None,
    ) -> None:
        self._store = store
        self._local = local
        self._limit_of = limit_of
        self._telemetry = telemetry
        self._log = structlog.get_logger()

    async def should_rate_limit(
        self,
        request: RateLimitRequest,
        context: "grpc.aio.ServicerContext[RateLimitRequest, RateLimitResponse]",
    ) -> RateLimitResponse:
        """Answer one call.

        Without the store the local buckets decide; without local buckets the call fails with UNAVAILABLE.
        """
        answer = RateLimitResponse(overall_code=RateLimitResponse.OK)
        try:
            for descriptor in request.descriptors:
                entries = {entry.key: entry.value for entry in descriptor.entries}
                try:
                    answer = await self._answer(entries)
                except StoreUnavailable as error:
                    self._report(error)
                    if self._local is None:
                        raise
                    answer = await self._answer_locally(self._local, entries)
        except StoreUnavailable:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the budget store is unavailable")
        return answer

    def _report(self, error: StoreUnavailable) -> None:
        self._telemetry.store_failed()
        if self._telemetry.may_warn():
            self._log.warning("store_unavailable", error=str(error))

    async def _answer_locally(self, local: LocalBudgets, entries: Mapping[str, str]) -> RateLimitResponse:
        client, request = entries["client"], entries["request"]
        limit = local.share_of(self._limit_of(client))
        if "settle" in entries:
            await local.buckets.settle(client, request, int(entries["settle"]), limit)
            return RateLimitResponse(overall_code=RateLimitResponse.OK)
        standing = await local.buckets.reserve(client, request, int(entries["reserve"]), limit)
        if standing.admitted:
            self._telemetry.decided("local_admitted")
            return RateLimitResponse(
                overall_code=RateLimitResponse.OK, request_headers_to_add=_output_limit(limit, entries)
            )
        return self._refusal(entries, limit, standing, outcome="local_refused")

    async def _answer(self, entries: Mapping[str, str]) -> RateLimitResponse:
        client, request = entries.get("client", ""), entries.get("request", "")
        amount = entries.get("reserve", entries.get("settle", ""))
        if not client or not request or not amount.isdigit():
            self._telemetry.decided("not_understood")
            return RateLimitResponse(overall_code=RateLimitResponse.OK)
        limit = self._limit_of(client)
        if not budgets_of(client, limit):
            self._telemetry.decided("unlimited")
            return RateLimitResponse(overall_code=RateLimitResponse.OK)
        if "settle" in entries:
            with self._telemetry.store_time():
                reserved = await self._store.settle(client, request, int(amount), limit)
            self._telemetry.settled(reserved, int(amount))
            return RateLimitResponse(overall_code=RateLimitResponse.OK)
        with self._telemetry.store_time():
            standing = await self._store.reserve(client, request, int(amount), limit)
        self._telemetry.store_answered()
        if standing.admitted:
            self._telemetry.decided("admitted")
            self._telemetry.reserved(int(amount))
            return RateLimitResponse(
                overall_code=RateLimitResponse.OK,
                response_headers_to_add=_standing_headers(limit, standing),
                request_headers_to_add=_output_limit(limit, entries),
            )
        return self._refusal(entries, limit, standing)

    def _refusal(
        self, entries: Mapping[str, str], limit: Limit, standing: Standing, outcome: str | None = None
    ) -> RateLimitResponse:
        amount = int(entries["reserve"])
        wait = max(1, math.ceil(standing.wait_seconds))
        headers = _standing_headers(limit, standing)
        budget = standing.refused_by
        assert budget is not None
        # A request that no waiting can make fit is named by the budget that is too small for it.
        for one in budgets_of(entries["client"], limit):
            if one.counts_tokens and amount > one.most:
                budget = one
                break
        whose = "the team's" if budget.of_team else "the client's"
        if budget.counts_tokens and amount > budget.most:
            reason, code = "too_large", "request_exceeds_token_budget"
            message = (
                f"This request reserves {amount} tokens; {whose} whole budget is "
                f"{budget.most} a {budget.period}. Ask for fewer tokens."
            )
            if outcome is None:  # A local bucket is small only until the store recovers.
                headers.append(HeaderValue(key="x-should-retry", value="false"))
        elif not budget.counts_tokens:
            reason, code = "over_requests", "requests_per_minute_exceeded"
            message = f"More than {limit.requests_per_minute} requests a minute. Retry in {wait} s."
        else:
            reason = "over_tokens" if budget.name == "tokens_per_minute" else f"over_{budget.name}"
            code = f"{budget.name}_exceeded"
            left = max(0, math.floor(standing.left[budget.name]))
            of = "" if budget.name == "tokens_per_minute" else f" of {whose} budget"
            message = (
                f"This request reserves {amount} tokens; {left} of {budget.most} a {budget.period}{of} are left. "
                f"Retry in {wait} s."
            )
            if budget.period != "minute" and outcome is None:
                headers.append(HeaderValue(key="x-should-retry", value="false"))
        self._telemetry.decided(outcome or reason)
        body = _openai(message, code)
        if entries.get("api") == "anthropic":
            body = _anthropic(message, entries)
            headers.append(HeaderValue(key="request-id", value=entries["request"]))
        answer = RateLimitResponse(
            overall_code=RateLimitResponse.OVER_LIMIT,
            response_headers_to_add=[*headers, HeaderValue(key="retry-after", value=str(wait))],
            raw_body=json.dumps(body, separators=(",", ":")).encode(),
        )
        answer.dynamic_metadata.update({"refused": True})
        return answer


def _output_limit(limit: Limit, entries: Mapping[str, str]) -> list[HeaderValue]:
    """Return the header that limits a completion to the reserved tokens, if the request has no limit of its own.

    The router writes it into the request for the engine, so that the reservation is an upper bound.
    """
    counts_tokens = any(budget.counts_tokens for budget in budgets_of(entries["client"], limit))
    if not counts_tokens or not entries.get("assumed", "").isdigit():
        return []
    return [HeaderValue(key="x-edge-max-tokens", value=entries["assumed"])]


def _openai(message: str, code: str) -> dict[str, object]:
    return {"error": {"message": message, "type": "rate_limit_error", "param": None, "code": code}}


def _anthropic(message: str, entries: Mapping[str, str]) -> dict[str, object]:
    error = {"type": "rate_limit_error", "message": message}
    return {"type": "error", "error": error, "request_id": entries["request"]}


def _standing_headers(limit: Limit, standing: Standing) -> list[HeaderValue]:
    headers = []
    for name, most, left in (
        ("requests", limit.requests_per_minute, standing.requests),
        ("tokens", limit.tokens_per_minute, standing.tokens),
    ):
        if most and left is not None:
            full_again = max(0.0, (most - left) * 60 / most)
            headers += [
                HeaderValue(key=f"x-ratelimit-limit-{name}", value=str(most)),
                HeaderValue(key=f"x-ratelimit-remaining-{name}", value=str(max(0, math.floor(left)))),
                HeaderValue(key=f"x-ratelimit-reset-{name}", value=f"{math.ceil(full_again)}s"),
            ]
    return headers


def handler(service: BudgetService) -> grpc.GenericRpcHandler:
    """Return the gRPC handler of Envoy's rate limit service, version 3."""
    method = grpc.unary_unary_rpc_method_handler(
        service.should_rate_limit,
        request_deserializer=RateLimitRequest.FromString,
        response_serializer=RateLimitResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"ShouldRateLimit": method})
