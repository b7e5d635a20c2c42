"""The latest decision records of this replica, by request id. Bounded; forgets the oldest."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from router_service.records.record import DecisionRecord


class Ring:
    """At most ``size`` records. A request id that comes again replaces its earlier record.

    Kept is the text that was logged: a third of the memory of the objects it was made of, and nothing in it for
    the garbage collector. Where the log leaves candidates out, the record itself is kept beside it.
    """

    __slots__ = ("_texts", "_whole", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._texts: OrderedDict[str, bytes] = OrderedDict()
        self._whole: dict[str, DecisionRecord] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def resize(self, size: int) -> None:
        """Keep ``size`` records from now on."""
        self.size = size
        while len(self._texts) > size:
            self._forget_oldest()

    def add(self, record: DecisionRecord, text: bytes) -> None:
        """Keep a record, whose ``text`` is its compact JSON; the oldest goes when the ring is full."""
        texts, request_id = self._texts, record.request_id
        if request_id in texts:
            del texts[request_id]
            self._whole.pop(request_id, None)
        texts[request_id] = text
        if record.shortened:
            self._whole[request_id] = record
        if len(texts) > self.size:
            self._forget_oldest()

    def get(self, request_id: str) -> dict[str, Any] | None:
        """The record of a request with every candidate, or None if it is unknown or forgotten."""
        whole = self._whole.get(request_id)
        if whole is not None:
            return whole.as_dict(whole=True)
        text = self._texts.get(request_id)
        return None if text is None else json.loads(text)

    def find(
        self,
        *,
        outcome: str | None = None,
        backend: str | None = None,
        rule: str | None = None,
        pool: str | None = None,
        limit: int = 50,
    ) -> Iterator[dict[str, Any]]:
        """Yield the latest records that fit as they were logged, newest first, at most ``limit``."""
        wanted = {"outcome": outcome, "rule": rule, "pool": pool}
        asked = {key: value for key, value in wanted.items() if value is not None}
        # A search of the bytes leaves only few to be parsed. An attempt begins with backend and outcome.
        marks = [f'"{key}":{json.dumps(value, ensure_ascii=False)}'.encode() for key, value in asked.items()]
        if backend is not None:
            marks.append(f'{{"backend":{json.dumps(backend, ensure_ascii=False)},"outcome":'.encode())
        for text in reversed(self._texts.values()):
            if limit <= 0:
                return
            if not all(mark in text for mark in marks):
                continue
            record: dict[str, Any] = json.loads(text)
            if any(record[key] != value for key, value in asked.items()):
                continue
            if backend is not None and all(a["backend"] != backend for a in record["attempts"]):
                continue
            limit -= 1
            yield record

    def _forget_oldest(self) -> None:
        request_id, _ = self._texts.popitem(last=False)
        self._whole.pop(request_id, None)
