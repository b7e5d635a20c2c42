"""The simulator's language is a pure function: what continues an answer is what would have followed."""

from hypothesis import given
from hypothesis import strategies as st

from engine_simulator.language import EOS_ID, Continuation, decode, encode, render_chat


def produced(context: str, tokens: int) -> str:
    continuation = Continuation(context)
    return "".join(continuation.next(may_end=False)[1] for _ in range(tokens))


@given(st.text(max_size=200))
def test_tokens_give_their_text_back(text: str) -> None:
    clean = text.encode("utf-8", "ignore").decode()
    assert decode(encode(clean)) == clean


@given(st.text(max_size=50), st.integers(1, 30), st.integers(0, 30))
def test_an_answer_cut_anywhere_goes_on_as_if_it_had_not_been(prompt: str, tokens: int, cut: int) -> None:
    messages: list[object] = [{"role": "user", "content": prompt}]
    context = render_chat(messages, continue_final=False)
    whole = produced(context, tokens + cut)
    part = produced(context, cut)
    partial = {"role": "assistant", "content": part}
    resumed = render_chat([*messages, partial], continue_final=True)
    if cut:
        assert part + produced(resumed, tokens) == whole


def test_answers_end_by_themselves_when_they_may() -> None:
    continuation = Continuation("any", mean_tokens=20)
    ends = [continuation.next(may_end=True)[0] for _ in range(500)]
    assert EOS_ID in ends
