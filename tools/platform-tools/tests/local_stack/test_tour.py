"""The tour prints every part of the ledger, including the signed remainder."""

from platform_tools.local_stack.tour import LEDGER, LONG_PROMPT, ledger_table
from router_service.records.record import LEDGER_PARTS

RECORD = {
    "ttft_ledger_ms": {
        "edge": 1.5,
        "router_queue": 0.0,
        "router": 0.4,
        "connect": 0.2,
        "engine_queue": None,
        "prefill": None,
        "first_byte_wait": 90.0,
        "relay": 0.1,
        "unexplained": -0.7,
    },
    "first_token_ms": 91.5,
}


def test_every_part_with_a_figure_has_a_line_and_the_rest_keeps_its_sign() -> None:
    text = "\n".join(ledger_table(RECORD))
    assert "-0.70 ms  unexplained (signed)" in text
    assert "91.50 ms  measured" in text
    assert "prefill of the prompt" not in text
    assert "90.00 ms  engine: first byte" in text


def test_every_part_of_the_ledger_has_its_words() -> None:
    assert set(LEDGER) == set(LEDGER_PARTS)


def test_an_unstreamed_request_has_no_figures_and_no_crash() -> None:
    assert ledger_table({"ttft_ledger_ms": None, "first_token_ms": None})


def test_the_long_prompt_is_long_for_the_rule_and_short_for_the_model() -> None:
    assert 3000 <= len(LONG_PROMPT) < 4000
