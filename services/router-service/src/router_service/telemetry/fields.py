"""The only definition of the router's log fields, record fields and span attributes. Holds no values.

`docs/signals.md` is generated from this table.
"""

LOG_FIELDS: dict[str, str] = {
    "time": "RFC 3339, UTC",
    "level": "info, warning, error",
    "service": "always `router-service`",
    "event": "what happened; `request` for the line that each request writes, `shadow` for that of a copy",
    "request_id": "the id that every component uses",
    "trace_id": "W3C trace id",
}
"""Fields of every log line; the line of a request also has all fields of its decision record."""

CHANGE_FIELDS: dict[str, str] = {
    "kind": "routers: configuration, rollout, backend_joined, backend_left, backend_state, breaker, affinity_store; agents: "
    "engine_start, engine_version; edges: edge_routes",
    "pool": "the pool, if the change is of one",
    "backend": "the backend, if the change is of one",
    "before": "the value before: a state, a configuration's hash, a version",
    "after": "the value after",
    "reason": "why an engine was started, or what a route table contains",
    "lasted_seconds": "how long the store's new state had lasted when the line was written",
    "rule": "the rule of the rollout; `before` and `after` are its percent",
    "config_hash": "hash of the configuration with the rollout's new share",
    "rules_added": "names of the rules, as `rules_removed` and `rules_changed`",
}
"""Fields of the log line of a change, whose `event` is `change`."""

RECORD_FIELDS: dict[str, str] = {
    "request_id": "the id that every component uses",
    "time": "when the router received the request, RFC 3339, UTC",
    "client_id": "the client, as the edge authenticated it",
    "replica": "the router replica that handled the request",
    "config_hash": "hash of the configuration that decided",
    "path": "the requested path",
    "model": "the requested model",
    "stream": "whether the client requested a stream",
    "features": "request features that rules test: prompt_chars, max_tokens, ...; no text",
    "conditions": "result of every text condition, by the condition's hash",
    "rule": "the rule that matched, or `default`",
    "rollout": "if the rule has a rollout: `to`, the new pool, and `percent`, its share when this request was decided",
    "passed_over": "rules that matched but whose pools do not serve the model",
    "first_pool": "the pool of that rule",
    "pool": "the pool that served the request; differs from `first_pool` after a fallback",
    "policy": "the policy that chose a backend in the pool",
    "reason": "why the backend was chosen: a closed list",
    "candidates": "considered backends: eligible or rejected_because, in_flight, limit, score; of a large pool the "
    "best ones, and some of each reason",
    "candidates_total": "number of considered backends",
    "rejected": "number of rejected backends, by pool and reason",
    "snapshot": "other inputs of the decision: round-robin position, pin; `home`: the pool of the backend "
    "that has the previous response",
    "affinity": "state of session affinity: off, placed, kept, broken; `prefix`: whether the backend had served the "
    "same beginning of a prompt before (kept), only others had (moved), or none (new)",
    "chosen": "the chosen backend",
    "queue_position": "number of requests ahead in the queue; null if the request did not wait",
    "held_ms": "time in the queue while no backend was ready, if it waited for an engine to start",
    "class": "class of the request, if classes are configured",
    "went_ahead": "number of requests of each class that were sent to the pool while this one waited",
    "shadow": "the shadow pool that takes a copy of the request: `request_id` of the copy, or why it was `left_out`",
    "shadow_of": "only in records of copies: the request that was copied",
    "attempts": "calls to backends: backend, outcome, status, connect_ms, first_byte_ms, detail",
    "ttft_ledger_ms": "parts of the time to first token; `unexplained` is signed",
    "decide_ms": "time to decide",
    "first_token_ms": "from the edge's first byte to the first body byte; the sum of the ledger",
    "first_answer_ms": "until the first token after the reasoning",
    "decode_ms": "from the engine's first byte to its last",
    "total_ms": "from receipt to the end",
    "tokens": "prompt and completion, and their parts cached (prompt) and reasoning (completion), counted by the engine",
    "status": "HTTP status of the response",
    "outcome": "how the request ended: a closed list",
    "verdict": "the layer with the largest excess over the pool's usual time: routing, execution, capacity, none",
    "trace_id": "W3C trace id",
    "edge_attempt": "the edge's attempt number, if another router did not answer the first attempt",
    "edge_skewed": "true if the edge's clock and the router's disagree",
    "detail": "description of the failure",
}
"""Fields of a decision record, in the log line of a request and at `/debug/decisions/{request_id}`."""

SPAN_ATTRIBUTES: dict[str, str] = {
    "gen_ai.operation.name": "chat, text_completion, embeddings, ...",
    "gen_ai.provider.name": "always `vllm`",
    "gen_ai.request.model": "the requested model",
    "gen_ai.request.max_tokens": "the requested limit",
    "gen_ai.usage.input_tokens": "prompt tokens, as the engine counted them",
    "gen_ai.usage.output_tokens": "completion tokens, as the engine counted them",
    "gen_ai.usage.cache_read.input_tokens": "prompt tokens that came from the prefix cache",
    "http.request.method": "always POST",
    "url.path": "the requested path",
    "http.response.status_code": "HTTP status of the response; on an attempt: of the backend's response",
    "error.type": "the outcome, if it is a failure",
    "llm.request_id": "the id that every component uses",
    "llm.outcome": "how the request ended",
    "llm.verdict": "the layer with the largest excess",
    "llm.config_hash": "hash of the configuration that decided",
    "llm.stream": "whether the client requested a stream",
    "llm.prompt_chars": "size of the prompt",
    "llm.pool": "the pool that served the request",
    "llm.rule": "the rule that matched",
    "llm.policy": "the policy that chose the backend",
    "llm.reason": "why the backend was chosen",
    "llm.backend": "the backend; on an attempt: the attempt's backend",
    "llm.first_token_ms": "time to first token",
    "llm.first_answer_ms": "time to the first token after the reasoning",
    "llm.ttft_ledger_ms.*": "one attribute for each part of the ledger",
    "llm.attempt": "number of the attempt, from 1 (spans of attempts only)",
    "llm.attempt_outcome": "how the attempt ended (spans of attempts only)",
}
"""Attributes of the router's spans: OpenTelemetry's GenAI names, and `llm.` names where the conventions have none."""
