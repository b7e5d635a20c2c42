"""Every client of an idle connection closes it before its server does; otherwise a request can hit the close."""

from edge_gateway.settings import Router as EdgesRouter
from router_service.config.model import Server
from router_service.lifecycle import KEEP_ALIVE_SECONDS
from router_service.wiring import keep_alive_seconds

VLLM_KEEP_ALIVE_SECONDS = 5.0
"""`VLLM_HTTP_TIMEOUT_KEEP_ALIVE`, as vLLM has it by default."""


def test_the_edge_gives_up_before_the_router_does() -> None:
    assert EdgesRouter().keepalive_idle_seconds < KEEP_ALIVE_SECONDS


def test_a_router_that_ends_accepts_for_longer_than_the_edge_keeps_an_idle_connection() -> None:
    assert EdgesRouter().keepalive_idle_seconds < Server().settle_seconds


def test_the_router_gives_up_before_an_engine_does() -> None:
    assert keep_alive_seconds() < VLLM_KEEP_ALIVE_SECONDS
