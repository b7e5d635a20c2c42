"""`load-testing from-records`: a workload with the arrivals and lengths of the router's decision records.

Records have no text: the prompts are random words of the recorded length. Sessions and shared prefixes are kept by their
digests, cached prompt tokens as the length of the shared prefix.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from load_testing.users.prompts import mean_word_characters
from load_testing.workloads import Arrival

CHAT = "/v1/chat/completions"


class BadLog(Exception):
    """The log has no load; the message says why and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Exit 0: the workload was written. Exit 2: bad input."""
    options = _parser().parse_args(arguments)
    try:
        arrivals, left_out = arrivals_of(options.log, options.pool)
    except BadLog as problem:
        print(f"from-records: {problem}", file=sys.stderr)
        return 2
    seconds = max(arrivals[-1].at, 1.0)
    document = {
        "description": f"{len(arrivals)} recorded requests in {seconds:.0f} s, with random words.",
        "rate_per_second": round(len(arrivals) / seconds, 6),
        "duration_seconds": round(seconds + 0.001, 3),
        "recorded": [arrival.model_dump(exclude_defaults=True) for arrival in arrivals],
    }
    options.out.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))
    print(
        f"{options.out}: {document['description']} {left_out} records left out: no chat, or no tokens reported"
    )
    print(f"send it with: make load WORKLOAD={options.out}")
    return 0


def arrivals_of(log: Path, pool: str) -> tuple[list[Arrival], int]:
    """Return the requests of a log in their order of arrival, and the number of records that were left out.

    ``pool`` "": all pools.

    Raises:
        BadLog: the file cannot be read, or has no request to send.
    """
    found: list[tuple[float, dict[str, Any]]] = []
    left_out = 0
    for record in _records(log):
        if pool and record.get("pool") != pool:
            continue
        counts = record["tokens"]
        if record["path"] != CHAT or not counts["prompt"] or not counts["completion"]:
            left_out += 1
            continue
        found.append((datetime.fromisoformat(record["time"]).timestamp(), _fields(record)))
    if not found:
        of = f" of pool {pool}" if pool else ""
        raise BadLog(
            f"{log} has no answered chat{of} with token counts ({left_out} other records): nothing to send"
        )
    found.sort(key=lambda pair: pair[0])
    return [Arrival(at=round(at - found[0][0], 6), **fields) for at, fields in found], left_out


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    features, counts = record["features"], record["tokens"]
    words = max(round(features["prompt_chars"] / mean_word_characters()), 1)
    prefix = features.get("prefix", "")
    shared = round(words * (counts["cached"] or 0) / counts["prompt"]) if prefix else 0
    return {
        "model": record["model"],
        "words": words,
        "max_tokens": counts["completion"],
        "stream": record["stream"],
        "session": features.get("session", ""),
        "prefix": prefix if shared else "",
        "prefix_words": min(shared, words - 1),
    }


def _records(log: Path) -> Iterator[dict[str, Any]]:
    try:
        with log.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if not isinstance(record, dict) or "shadow_of" in record:  # A copy is no request of a client.
                    continue
                if "config_hash" in record and "tokens" in record:
                    yield record
    except OSError as error:
        raise BadLog(f"{log}: cannot be read: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="load-testing from-records", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("log", type=Path, help="the router's log")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.yaml", help="the workload to write")
    parser.add_argument("--pool", default="", help="only requests of this pool; default: all")
    return parser
