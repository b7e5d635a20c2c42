"""A stream cut at any byte: whole events, and then the rest or one error."""

import json

import pytest

from harness.fake_upstream import Ending, Script
from harness.stacks.resumed_streams import DONE, GREEDY, NOT_RESUMED, RULE, STREAM, answered, events
from router_service.openai_api.event_stream import MAX_HELD_BYTES
from router_service.routing.rules import Rule
from router_service.routing.vocabulary import Outcome

WHOLE = [*events(True, ["1", "2", ",", "3"], "stop"), DONE]
"""A response without a word boundary: the original request is repeated."""


@pytest.mark.parametrize("ending", ["break", "complete"])
@pytest.mark.parametrize("rule", [RULE, NOT_RESUMED], ids=["resumed", "not resumed"])
def test_a_cut_at_any_byte_leaves_whole_events_and_then_the_rest_or_one_error(
    rule: Rule, ending: Ending
) -> None:
    """Cuts are also inside an event, and also look like an orderly end (a body that ends with its connection)."""
    stream = b"".join(WHOLE)
    # An orderly end behind `[DONE]` lacks a blank line only.
    enough = len(stream) - (2 if ending == "complete" else 0)
    for cut in range(len(stream) + 1):
        client, job, _ = answered(GREEDY, [stream[:cut]], WHOLE, ending=ending, rule=rule)
        whole = job.outcome is Outcome.OK
        retried = stream[:cut].count(b"\n\n") < 2  # no token yet: the first event has only the role
        assert whole is (rule.resume or retried or cut >= enough), cut
        if cut < enough:
            assert client.data.endswith(b"\n\n"), cut
        errors = [chunk for chunk in client.chunks if "error" in chunk]  # every event is read as JSON
        if whole:
            assert (client.text, errors, client.ends) == ("12,3", [], ["finish"]), cut
            assert client.data.count(b"data: [DONE]") == 1, cut
        else:
            assert "12,3".startswith(client.text), cut
            assert (errors, client.ends) == ([client.chunks[-1]], ["abort"]), cut


@pytest.mark.parametrize("ending", ["break", "complete"])
@pytest.mark.parametrize("rule", [RULE, NOT_RESUMED], ids=["resumed", "not resumed"])
def test_an_event_that_was_passed_on_in_pieces_is_closed_before_the_error(rule: Rule, ending: Ending) -> None:
    """The client has received a part of an event. Nothing can complete it, and later bytes must not extend it."""
    long = WHOLE[1][:-9] + b"x" * (MAX_HELD_BYTES + 1)
    client, job, sent = answered(GREEDY, [WHOLE[0], long], WHOLE, ending=ending, rule=rule)
    begun, open_event, error, after = client.data.split(b"\n\n")
    assert (begun + b"\n\n", open_event, after) == (WHOLE[0], long, b"")
    assert error.startswith(b'data: {"error"')
    assert (client.ends, len(sent), job.outcome) == (["abort"], 1, Outcome.TRUNCATED)


def test_a_continuation_that_is_cut_inside_an_event_ends_as_one_error() -> None:
    client, job, _ = answered(
        GREEDY, WHOLE[:3], Script(200, STREAM, (b"".join(WHOLE)[:-100],), "complete"), ending="complete"
    )
    assert [e[:8] for e in client.data.split(b"\n\n")][-2:] == [b'data: {"', b""]
    assert client.data.count(b'data: {"error"') == 1
    assert json.loads(client.data.split(b"\n\n")[-2][6:])["error"]
    assert (client.ends, job.outcome) == (["abort"], Outcome.TRUNCATED)
