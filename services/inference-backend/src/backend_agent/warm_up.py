"""Warms up an engine with real requests and decides when it is warm. Knows the engine's API, not routing."""

import asyncio
import json
import time
from dataclasses import dataclass

import httpx

from backend_agent.model_file import WarmUp
from platform_contracts.event_streams import DONE, EventReader

REQUEST_SECONDS = 120.0
# Token ids that exist in every vocabulary and are not special tokens.
FIRST_ID, ID_COUNT = 1000, 1000


class WarmUpFailed(Exception):
    """The engine did not return real tokens. The message says what it returned."""


@dataclass(frozen=True)
class Round:
    """One round of warm-up requests: the slowest time to first token in seconds, and the number of tokens."""

    first_token_seconds: float
    tokens: int


async def warm_up(
    http: httpx.AsyncClient, engine_url: str, model: str, plan: WarmUp, context_tokens: int
) -> list[Round]:
    """Send rounds of requests until a round is within ``settled_factor`` of the best one.

    If the plan asks for it, the first prompt fills ``context_tokens`` except for its completion, so that the
    memory of the longest request is allocated. Returns the rounds. An engine that never settles counts as warm
    after ``max_rounds``: every round returned tokens, and a loaded machine must not exclude its engines.

    Raises:
        WarmUpFailed: a request failed or returned no token.
    """
    if plan.longest_prompt:
        ids = [FIRST_ID + place % ID_COUNT for place in range(context_tokens - plan.max_tokens)]
        await _ask(http, engine_url, model, ids, plan.max_tokens)
    rounds: list[Round] = []
    while len(rounds) < plan.max_rounds:
        rounds.append(await _round(http, engine_url, model, plan, number=len(rounds)))
        best = min(one.first_token_seconds for one in rounds)
        if len(rounds) > 1 and rounds[-1].first_token_seconds <= plan.settled_factor * best:
            break
    return rounds


async def _round(http: httpx.AsyncClient, engine_url: str, model: str, plan: WarmUp, number: int) -> Round:
    # Prompts differ, so that the prefix cache never serves a later round.
    prompts = [
        " ".join(["warm", str(number), str(place), *["word"] * words])
        for words in plan.prompt_words
        for place in range(plan.concurrent)
    ]
    asked = (_ask(http, engine_url, model, prompt, plan.max_tokens) for prompt in prompts)
    answers = await asyncio.gather(*asked)
    return Round(max(seconds for seconds, _ in answers), sum(tokens for _, tokens in answers))


async def _ask(
    http: httpx.AsyncClient, engine_url: str, model: str, prompt: str | list[int], max_tokens: int
) -> tuple[float, int]:
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
    began = time.monotonic()
    first: float | None = None
    tokens = 0
    try:
        async with http.stream(
            "POST", f"{engine_url}/v1/completions", json=body, timeout=REQUEST_SECONDS
        ) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode(errors="replace")[:300]
                raise WarmUpFailed(f"the engine answers {answer.status_code}: {text}")
            events = EventReader()
            async for piece in answer.aiter_bytes():
                for event in events.feed(piece):
                    document = {} if event == DONE else json.loads(event)
                    if "error" in document:
                        raise WarmUpFailed(f"the engine's stream ended with {document['error']}")
                    if document.get("choices"):
                        tokens += 1
                        first = first if first is not None else time.monotonic() - began
    except (httpx.HTTPError, ValueError) as error:
        raise WarmUpFailed(f"{type(error).__name__}: {error}") from error
    if first is None:
        raise WarmUpFailed("the engine returned no token")
    return first, tokens
