"""The latest decision records of this replica, by request id. Bounded in records and bytes; drops the oldest."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Any

from router_service.records.record import DecisionRecord

CANDIDATE_BYTES = 256
"""Estimated memory of one candidate of a record that is stored whole."""

DEFAULT_BYTES = 64 * 1024 * 1024


class Ring:
    """Stores at most ``size`` records with a total of ``max_bytes``. A repeated request id replaces its earlier
    record.

    Stores the logged text, which takes a third of the memory of the record's objects and adds no work for the garbage
    collector. If the log line leaves candidates out, the record itself is stored too.
    """

    __slots__ = ("_texts", "_whole", "held_bytes", "max_bytes", "size")

    def __init__(self, size: int, max_bytes: int = DEFAULT_BYTES) -> None:
        self.size = size
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._texts: OrderedDict[str, bytes] = OrderedDict()
        self._whole: dict[str, DecisionRecord] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def reconfigure(self, size: int, max_bytes: int = DEFAULT_BYTES) -> None:
        """Apply new limits: ``size`` records and ``max_bytes``."""
        self.size = size
        self.max_bytes = max_bytes
        self._shrink()

    def add(self, record: DecisionRecord, text: bytes) -> None:
        """Store a record, whose ``text`` is its compact JSON; a full ring drops the oldest records."""
        texts, request_id = self._texts, record.request_id
        if request_id in texts:
            self._forget(request_id)
        texts[request_id] = text
        self.held_bytes += len(text)
        if record.shortened:
            self._whole[request_id] = record
            self.held_bytes += _whole_bytes(record)
        if len(texts) > self.size or self.held_bytes > self.max_bytes:
            self._shrink()

    def get(self, request_id: str) -> dict[str, Any] | None:
        """Return the record of a request with every candidate, or None if it is unknown or was dropped."""
        whole = self._whole.get(request_id)
        if whole is not None:
            return whole.as_dict(whole=True)
        text = self._texts.get(request_id)
        return None if text is None else json.loads(text)

    def find(
        self,
        *,
        backend: str | None = None,
        after: str = "",
        before: str = "",
        limit: int = 50,
        **wanted: str | None,
    ) -> Iterator[bytes]:
        """Yield the logged text of the latest matching records, newest first, at most ``limit``.

        ``wanted`` has values of the record's own fields, None for any; one of the attempts went to ``backend``.
        Leaves out the records up to that of the request ``after``, if it is still kept, and those from that of the
        request ``before`` on; if the latter is not kept, none is left.

        The ring may change between two items: the search runs on the records of the first call.
        """
        asked = {key: value for key, value in wanted.items() if value is not None}
        # Searching the bytes first leaves few records to parse. An attempt begins with backend and outcome.
        marks = [f'"{key}":{json.dumps(value, ensure_ascii=False)}'.encode() for key, value in asked.items()]
        if backend is not None:
            marks.append(f'{{"backend":{json.dumps(backend, ensure_ascii=False)},"outcome":'.encode())
        for text in self._between(after, before, len(self._texts) if marks else limit):
            if limit <= 0:
                return
            if not all(mark in text for mark in marks):
                continue
            if marks:
                record: dict[str, Any] = json.loads(text)
                if any(record[key] != value for key, value in asked.items()):
                    continue
                if backend is not None and all(a["backend"] != backend for a in record["attempts"]):
                    continue
            limit -= 1
            yield text

    def _between(self, after: str, before: str, most: int) -> list[bytes]:
        """Return at most ``most`` texts between two requests, newest first, without copying the others."""
        ids = iter(reversed(self._texts))
        if before:
            for request_id in ids:
                if request_id == before:
                    break
        until_after = takewhile(lambda request_id: request_id != after, ids)
        return [self._texts[request_id] for request_id in islice(until_after, most)]

    def _shrink(self) -> None:
        while self._texts and (len(self._texts) > self.size or self.held_bytes > self.max_bytes):
            self._forget(next(iter(self._texts)))

    def _forget(self, request_id: str) -> None:
        self.held_bytes -= len(self._texts.pop(request_id))
        whole = self._whole.pop(request_id, None)
        if whole is not None:
            self.held_bytes -= _whole_bytes(whole)


def _whole_bytes(record: DecisionRecord) -> int:
    first = record.first_decision
    return CANDIDATE_BYTES * len(first.candidates) if first is not None else 0
