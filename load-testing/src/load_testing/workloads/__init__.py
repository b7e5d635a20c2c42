"""Reads and validates workloads: folders with a README and a workload.yaml."""

import random
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from load_testing.measure.arrivals import Segment
from load_testing.shapes import SHAPES

FOLDER = Path(__file__).parent


class BadWorkload(Exception):
    """The workload is invalid; the message names the file, the key, the value and the remedy."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Words(_Strict):
    """A length drawn evenly between two numbers of words."""

    low: int = Field(gt=0, description="fewest words")
    high: int = Field(gt=0, description="most words")

    @model_validator(mode="after")
    def _ordered(self) -> "Words":
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self

    def draw(self, draws: random.Random) -> int:
        return draws.randint(self.low, self.high)


class RequestKind(_Strict):
    """One kind of request in the mix."""

    name: str = Field(description="how the report calls it")
    weight: float = Field(1.0, gt=0, description="share of the arrivals, relative to the other kinds")
    model: str = Field("smollm2-135m-instruct", description="the model asked for")
    prompt_words: Words = Field(description="length of each user message")
    shared_prefix_words: int = Field(0, ge=0, description="words that all requests of this kind begin with")
    prefixes: int = Field(1, ge=1, description="how many different shared prefixes there are")
    max_tokens: int = Field(16, gt=0, description="tokens asked for; exactly that many are expected")
    stream: bool = Field(True, description="server-sent events, or one JSON answer")
    turns: int = Field(1, ge=1, description="messages of one session, sent one after another")
    think_seconds: float = Field(0.0, ge=0, description="pause between the turns of a session")
    abort_after_events: int | None = Field(None, ge=0, description="leave after this many events with text")
    client: Literal["load", "default"] = Field("load", description="whose API key is used")
    accept_statuses: tuple[int, ...] = Field((200,), description="statuses that are no failure")


class Arrival(_Strict):
    """One recorded request, with text of the recorded length instead of its own."""

    at: float = Field(ge=0, description="seconds after the first request")
    model: str
    words: int = Field(gt=0, description="length of the prompt")
    max_tokens: int = Field(gt=0, description="tokens of the recorded answer")
    stream: bool = True
    session: str = Field("", description="requests of one session send the same x-session-id")
    prefix: str = Field("", description="requests with the same one begin with the same words")
    prefix_words: int = Field(0, ge=0, description="how many of the words")

    def kind(self) -> RequestKind:
        """Return the request as a kind of its own."""
        rest = max(self.words - self.prefix_words, 1)
        return RequestKind(
            name="recorded",
            model=self.model,
            prompt_words=Words(low=rest, high=rest),
            shared_prefix_words=self.prefix_words,
            max_tokens=self.max_tokens,
            stream=self.stream,
        )


class Slo(_Strict):
    """Limits that a request must keep to count towards goodput, and the required share."""

    ttft_seconds: float = Field(2.0, gt=0)
    inter_token_p95_seconds: float = Field(0.5, gt=0, description="p95 of one request's own gaps")
    goodput_ratio: float = Field(0.99, gt=0, le=1, description="share of requests that must keep the SLO")


class Workload(_Strict):
    """A whole workload."""

    description: str
    locally: str = Field(
        "", description="difference on the local stack, added to the description in reports of its runs"
    )
    shape: Literal["fixed", "ramp", "step", "burst", "night"] = "fixed"
    arrivals: Literal["poisson", "constant"] = "poisson"
    rate_per_second: float = Field(gt=0, description="peak rate, replaced by RATE")
    duration_seconds: float = Field(gt=0, description="replaced by DURATION")
    requests: tuple[RequestKind, ...] = ()
    recorded: tuple[Arrival, ...] = Field(
        (), description="instead of `requests`: what to send when (from-records)"
    )
    slo: Slo = Slo()

    @model_validator(mode="after")
    def _has_requests(self) -> "Workload":
        if bool(self.requests) == bool(self.recorded):
            raise ValueError("requests: list the kinds of requests, or give recorded ones, not both")
        return self

    def described(self, local: bool) -> str:
        """Return the description of the workload."""
        return f"{self.description} {self.locally}".strip() if local else self.description

    def segments(self, rate: float, seconds: float) -> list[Segment]:
        """Return the rate over time for this rate and duration."""
        return SHAPES[self.shape](rate, seconds)


def load(name: str) -> Workload:
    """Read ``workloads/<name>/workload.yaml``, or the file ``name`` if it ends with ``.yaml``.

    Raises:
        BadWorkload: there is no such workload, or the file is invalid.
    """
    path = Path(name) if name.endswith(".yaml") else FOLDER / name / "workload.yaml"
    known = ", ".join(sorted(p.parent.name for p in FOLDER.glob("*/workload.yaml")))
    if not path.is_file():
        raise BadWorkload(f'WORKLOAD: "{name}" is not a workload (known: {known}, or a .yaml file)')
    try:
        return Workload.model_validate(yaml.load(path.read_text(), yaml.CSafeLoader))
    except (ValidationError, yaml.YAMLError) as error:
        shown = path.relative_to(FOLDER.parent.parent) if path.is_relative_to(FOLDER) else path
        raise BadWorkload(f"{shown}: {error}") from error
