"""Log probabilities for clients that request them, in vLLM's format. The values are hashes, not a model's."""

from typing import Any

from engine_simulator.language import decode


def _logprob(token: int, rank: int) -> float:
    return -((token * 2_654_435_761 >> 7) % 1000) / 1000 - rank


def chat_logprobs(ids: list[int], top: int) -> dict[str, Any]:
    """Return log probabilities of the tokens ``ids`` as in /v1/chat/completions, with ``top`` alternatives
    each.
    """
    content = []
    for token in ids:
        entry = {
            "token": decode([token]),
            "logprob": _logprob(token, 0),
            "bytes": list(decode([token]).encode()),
        }
        others = [{**entry, "logprob": _logprob(token, rank)} for rank in range(top)]
        content.append({**entry, "top_logprobs": others})
    return {"content": content}


def completion_logprobs(ids: list[int], offset: int) -> dict[str, Any]:
    """Return log probabilities as in /v1/completions; ``offset`` is the number of characters sent before."""
    offsets = []
    for token in ids:
        offsets.append(offset)
        offset += len(decode([token]))
    return {
        "text_offset": offsets,
        "token_logprobs": [_logprob(token, 0) for token in ids],
        "tokens": [decode([token]) for token in ids],
        "top_logprobs": [{decode([token]): _logprob(token, 0)} for token in ids],
    }
