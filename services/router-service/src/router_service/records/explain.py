"""A decision record as a person's answer: what was asked, where it went and why, where the time went."""

from collections.abc import Mapping
from typing import Any

_REASONS = {
    "only_candidate": "it was the only backend that could take it",
    "round_robin": "it was its turn",
    "least_loaded": "it had the fewest requests in flight",
    "prefix_affinity": "requests that begin like this one go there, to reuse its prefix cache",
    "session_affinity": "the client's session is there",
    "affinity_broken": "the backend that has the client's session could not take it, and this one was next",
    "fallback": "nothing in the first pool was ready, and its pool is a fallback",
    "retry": "an earlier attempt failed before the answer began",
    "resume": "an earlier backend died in the middle of the answer",
    "none_available": "no backend could take it",
}
_REJECTIONS = {
    "not_ready": "was not ready",
    "warming": "was still warming up",
    "draining": "was draining",
    "stuck": "was stuck",
    "unreachable": "could not be reached",
    "breaker_open": "was held back by its circuit breaker",
    "at_limit": "was at its limit of requests in flight",
    "already_tried": "had already been tried",
    "model_not_served": "does not serve the model",
}
_PARTS = {
    "edge": "edge gateway",
    "router_queue": "waiting in the router's line",
    "router": "router's own work",
    "earlier_attempts": "attempts that failed before",
    "connect": "connecting to the backend",
    "network": "network to the backend and back",
    "engine_queue": "waiting in the engine",
    "prefill": "prefill",
    "first_byte_wait": "engine, until its first byte",
    "relay": "passing the first bytes on",
    "unexplained": "not explained by any part",
}


def explain(record: Mapping[str, Any]) -> str:
    """Return several lines of plain text about one record (the JSON of the log or of ``/debug``)."""
    return "\n".join(
        [*_asked(record), *_decided(record), *_attempts(record), *_times(record), *_ended(record)]
    )


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
    ]


def _decided(r: Mapping[str, Any]) -> list[str]:
    pool = r.get("pool")
    if not pool:
        return ["  No pool was chosen."]
    rule = r.get("rule")
    by = "no rule matched, so the default applied" if rule == "default" else f"rule {rule} matched"
    lines = [f"  Pool {pool}: {by}."]
    if r.get("passed_over"):
        lines.append(
            f"  Passed over, because their pools do not serve the model: {', '.join(r['passed_over'])}."
        )
    if r.get("chosen"):
        lines.append(f"  Backend {r['chosen']}: {_REASONS.get(r['reason'], r['reason'])} ({r['reason']}).")
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
            lines.append(f"    {c['backend']}: could take it, {load}{score}{mark}")
        else:
            why = _REJECTIONS.get(c["rejected_because"], c["rejected_because"])
            lines.append(f"    {c['backend']}: {why} ({c['rejected_because']}), {load}")
    if r.get("queue_position") is not None:
        lines.append(f"  It waited in the pool's line, {r['queue_position']} before it.")
    return lines


def _attempts(r: Mapping[str, Any]) -> list[str]:
    lines = []
    for number, attempt in enumerate(r.get("attempts") or [], start=1):
        status = f", status {attempt['status']}" if attempt.get("status") else ""
        first = attempt.get("first_byte_ms")
        after = f", first byte after {first:.1f} ms" if first is not None else ""
        detail = f" ({attempt['detail']})" if attempt.get("detail") else ""
        lines.append(
            f"  Attempt {number} on {attempt['backend']}: {attempt['outcome']}{status}{after}{detail}"
        )
    return lines


def _times(r: Mapping[str, Any]) -> list[str]:
    lines = []
    ledger = {part: ms for part, ms in (r.get("ttft_ledger_ms") or {}).items() if ms is not None}
    if r.get("first_token_ms") is not None:
        lines.append(f"  First token after {r['first_token_ms']:.1f} ms:")
        for part, ms in sorted(ledger.items(), key=lambda item: -abs(item[1])):
            lines.append(f"    {ms:>10.2f} ms  {_PARTS.get(part, part)}")
        if r.get("edge_skewed"):
            lines.append("    (the edge's share is unknown: its clock and the router's disagree)")
    if r.get("decode_ms") is not None:
        lines.append(f"  Then {r['decode_ms']:.1f} ms of decoding.")
    return lines


def _ended(r: Mapping[str, Any]) -> list[str]:
    tokens = r.get("tokens") or {}
    counted = ""
    if tokens.get("completion") is not None:
        counted = f", {tokens.get('prompt')} prompt and {tokens['completion']} completion tokens"
    total = f" after {r['total_ms']:.1f} ms" if r.get("total_ms") is not None else ""
    lines = [f"  Ended {r.get('outcome')}{total}, status {r.get('status')}{counted}."]
    if r.get("detail"):
        lines.append(f"  {r['detail']}")
    if r.get("verdict") not in (None, "none"):
        lines.append(f"  What made it slow: {r['verdict']}.")
    return lines
