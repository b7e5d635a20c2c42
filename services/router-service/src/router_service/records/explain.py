"""Describes a decision record for people: the request, the decision and its reason, and where the time went."""

from collections.abc import Mapping
from typing import Any

_REASONS = {
    "only_candidate": "it was the only backend that could accept the request",
    "round_robin": "it was its turn",
    "least_loaded": "it had the fewest requests in flight",
    "prefix_affinity": "requests with the same beginning go there, to reuse its prefix cache",
    "session_affinity": "the client's session is pinned to it",
    "affinity_broken": "the backend that the session is pinned to could not accept the request, and this one was next",
    "fallback": "no backend of the first pool was ready, and this one's pool is its fallback",
    "retry": "an earlier attempt failed before the response began",
    "resume": "an earlier backend failed in the middle of the response",
    "none_available": "no backend could accept the request",
    "refused_by_rule": "a rule refuses such requests",
    "model_not_allowed": "the client may not use this model",
}
_REJECTIONS = {
    "not_ready": "was not ready",
    "warming": "was still warming up",
    "draining": "was draining",
    "stuck": "was stuck",
    "unreachable": "could not be reached",
    "breaker_open": "was blocked by its circuit breaker",
    "at_limit": "was at its limit of requests in flight",
    "already_tried": "had already been tried",
    "model_not_served": "does not serve the model",
}
_PARTS = {
    "edge": "edge gateway",
    "waiting_for_start": "waiting for an engine to start",
    "router_queue": "waiting in the router queue",
    "router": "work in the router",
    "earlier_attempts": "earlier, failed attempts",
    "connect": "connecting to the backend",
    "network": "network round trip to the backend",
    "engine_queue": "waiting in the engine",
    "prefill": "prefill",
    "first_byte_wait": "engine, until its first byte",
    "relay": "relaying the first bytes",
    "unexplained": "not explained by any part",
}

_LEFT_OUT = {
    "stateful": "its engine keeps the response or has the previous one",
    "body_size": "its body is larger than limits.shadow_body_bytes",
    "model_not_served": "the pool does not serve the model",
    "same_pool": "the request itself went to this pool",
    "no_slot": "limits.shadow_slots copies were already running",
    "pool_full": "the pool had no free slot",
    "none_ready": "no backend of the pool was ready",
    "client_left": "its client left",
    "draining": "the router was shutting down",
}

_WAITS = {
    "backend": "a free backend",
    "start": "an engine to start",
    "connection": "a connection to {}",
    "first_token": "the first token of {}",
    "next_token": "the next token of {}",
}


def explain(record: Mapping[str, Any]) -> str:
    """Return several lines of plain text about one record (the JSON of the log or of ``/debug``)."""
    parts = (_asked, _decided, _shadow, _attempts, _times, _ended)
    return "\n".join(line for part in parts for line in part(record))


def _asked(r: Mapping[str, Any]) -> list[str]:
    features = r.get("features") or {}
    size = f"{features.get('prompt_chars', 0)} characters of prompt"
    limit = features.get("max_tokens")
    asked = f", at most {limit} tokens" if limit is not None else ""
    who = f" by {r['client_id']}" if r.get("client_id") else ""
    how = "streamed" if r.get("stream") else "unstreamed"
    return [
        f"Request {r['request_id']}{who} at {r['time']}",
        f"  asked {r['path']} for model {r.get('model') or '(none)'}: {size}{asked}, {how}.",
        *([f"  Router replica {r['replica']} handled it."] if r.get("replica") else []),
    ]


def _decided(r: Mapping[str, Any]) -> list[str]:
    pool = r.get("pool")
    if not pool:
        refused = {
            "refused_by_rule": f"  Refused: rule {r.get('rule')} matched, and it refuses such requests.",
            "model_not_allowed": "  Refused: the client's list of models (clients.models) has not this one.",
        }
        return [refused.get(r.get("reason", ""), "  No pool was chosen.")]
    rule = r.get("rule")
    by = "no rule matched, so the default applied" if rule == "default" else f"rule {rule} matched"
    lines = [f"  Pool {pool}: {by}."]
    if share := r.get("rollout"):
        lines.append(f"  Its rollout sent {share['percent']:g} % of the rule's requests to {share['to']}.")
    if r.get("passed_over"):
        lines.append(f"  Skipped, because their pools do not serve the model: {', '.join(r['passed_over'])}.")
    if r.get("chosen"):
        lines.append(f"  Backend {r['chosen']}: {_REASONS.get(r['reason'], r['reason'])} ({r['reason']}).")
        lines += _cache(r)
    elif (kept := r.get("snapshot") or {}).get("home"):
        lines.append(
            f"  No backend: only {kept.get('pin')} has the previous response, and it could not accept the request."
        )
    else:
        lines.append(f"  No backend: {_REASONS['none_available']}.")
    candidates = r.get("candidates") or []
    total = r.get("candidates_total", len(candidates))
    lines.append(f"  Considered ({total}):")
    for c in candidates:
        load = f"{c['in_flight']} of {c['limit']} in flight"
        if c["eligible"]:
            mark = " <- chosen" if c["backend"] == r.get("chosen") else ""
            score = "" if c.get("score") is None else f", score {c['score']:g}"
            lines.append(f"    {c['backend']}: could accept it, {load}{score}{mark}")
        else:
            why = _REJECTIONS.get(c["rejected_because"], c["rejected_because"])
            lines.append(f"    {c['backend']}: {why} ({c['rejected_because']}), {load}")
    for pool_name, counts in (r.get("rejected") or {}).items():
        for because, count in counts.items():
            named = sum(c["pool"] == pool_name and c["rejected_because"] == because for c in candidates)
            if count > named:
                lines.append(
                    f"    {count - named} more of {pool_name}: {_REJECTIONS.get(because, because)} ({because})"
                )
    left_out = (r.get("snapshot") or {}).get("left_out")
    if left_out and total > len(candidates):
        lines.append(f"    {left_out['count']} more of {left_out['pool']}: could take it, scored lower")
    if r.get("held_ms"):
        lines.append(f"  No backend was ready: it waited {r['held_ms'] / 1e3:.1f} s for an engine to start.")
    if r.get("queue_position") is not None:
        of_class = f" of class {r['class']}" if r.get("class") else ""
        lines.append(f"  It waited in the pool's queue behind {r['queue_position']} requests{of_class}.")
        if r.get("went_ahead"):
            sent = ", ".join(f"{count} of class {name}" for name, count in sorted(r["went_ahead"].items()))
            lines.append(f"  Sent to the pool while it waited: {sent}.")
    return lines


def _shadow(r: Mapping[str, Any]) -> list[str]:
    """Return what became of the request's copy, or of which request this is the copy."""
    if r.get("shadow_of"):
        return [f"  A copy of {r['shadow_of']} (shadow of rule {r.get('rule')}): no client got its answer."]
    shadow = r.get("shadow")
    if not shadow:
        return []
    if shadow.get("left_out"):
        why = _LEFT_OUT.get(shadow["left_out"], shadow["left_out"])
        return [f"  Not copied to the shadow pool {shadow['pool']}: {why} ({shadow['left_out']})."]
    return [f"  A copy for the shadow pool {shadow['pool']}: {shadow['request_id']}."]


def _cache(r: Mapping[str, Any]) -> list[str]:
    """Return where the prefix cache was expected, compared with the cached tokens that the engine reported."""
    affinity = r.get("affinity") or {}
    prefix = affinity.get("prefix")
    what = "beginning" if prefix else "session"
    if prefix == "moved" or affinity.get("state") == "broken":
        return [f"  Another backend served this {what} before: its prefix cache was not used."]
    tokens = r.get("tokens") or {}
    if (prefix == "kept" or affinity.get("state") == "kept") and tokens.get("prompt"):
        found = f"{tokens.get('cached') or 0} of {tokens['prompt']} prompt tokens were in its prefix cache"
        return [f"  It served this {what} before: {found}."]
    return []


def _attempts(r: Mapping[str, Any]) -> list[str]:
    lines = []
    for number, attempt in enumerate(r.get("attempts") or [], start=1):
        status = f", status {attempt['status']}" if attempt.get("status") else ""
        first = attempt.get("first_byte_ms")
        after = f", first byte after {first:.1f} ms" if first is not None else ""
        detail = f" ({attempt['detail']})" if attempt.get("detail") else ""
        lines.append(
            f"  Attempt {number} on {attempt['backend']}: {attempt['outcome'] or 'running'}{status}{after}{detail}"
        )
    return lines


def _times(r: Mapping[str, Any]) -> list[str]:
    lines = []
    ledger = {part: ms for part, ms in (r.get("ttft_ledger_ms") or {}).items() if ms is not None}
    if r.get("first_token_ms") is not None:
        lines.append(f"  First token after {r['first_token_ms']:.1f} ms:")
        for part, ms in sorted(ledger.items(), key=lambda item: -abs(item[1])):
            lines.append(f"    {ms:>10.2f} ms  {_PARTS.get(part, part)}")
        answered = r.get("first_answer_ms")
        if answered is not None and answered > r["first_token_ms"] + 1.0:
            lines.append(f"  First token of the answer after {answered:.1f} ms: thoughts came before it.")
        if r.get("edge_skewed"):
            lines.append("    (the edge's part is unknown: its clock and the router's disagree)")
    if r.get("decode_ms") is not None:
        lines.append(f"  Then {r['decode_ms']:.1f} ms of decoding.")
    return lines


def _ended(r: Mapping[str, Any]) -> list[str]:
    running = r.get("running")
    if running:
        awaited = _WAITS.get(running["waits_for"], running["waits_for"]).format(running.get("backend", ""))
        so_far = (r.get("total_ms") or 0.0) / 1e3
        return [
            f"  It is still running, for {so_far:.1f} s: it has waited {running['waited_ms'] / 1e3:.1f} s for {awaited}."
        ]
    tokens = r.get("tokens") or {}
    counted = ""
    if tokens.get("completion") is not None:
        cached = f" ({tokens['cached']} of them cached)" if tokens.get("cached") is not None else ""
        thought = f" ({tokens['reasoning']} of them thoughts)" if tokens.get("reasoning") else ""
        counted = f", {tokens.get('prompt')} prompt tokens{cached} and {tokens['completion']} completion tokens{thought}"
    total = f" after {r['total_ms']:.1f} ms" if r.get("total_ms") is not None else ""
    lines = [f"  Ended {r.get('outcome')}{total}, status {r.get('status')}{counted}."]
    if r.get("detail"):
        lines.append(f"  {r['detail']}")
    if r.get("verdict") not in (None, "none"):
        lines.append(f"  Largest excess over the usual time: {r['verdict']}.")
    return lines
