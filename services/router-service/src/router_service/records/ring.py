"""The latest decision records of this replica, by request id. Bounded; forgets the oldest."""

from collections import OrderedDict
from collections.abc import Iterator

from router_service.records.record import DecisionRecord


class Ring:
    """At most ``size`` records. A request id that comes again replaces its earlier record."""

    __slots__ = ("_records", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._records: OrderedDict[str, DecisionRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def resize(self, size: int) -> None:
        """Keep ``size`` records from now on."""
        self.size = size
        while len(self._records) > size:
            self._records.popitem(last=False)

    def add(self, record: DecisionRecord) -> None:
        """Keep a record; the oldest goes when the ring is full."""
        records = self._records
        records.pop(record.request_id, None)
        records[record.request_id] = record
        if len(records) > self.size:
            records.popitem(last=False)

    def get(self, request_id: str) -> DecisionRecord | None:
        """The record of a request, or None if it is unknown or forgotten."""
        return self._records.get(request_id)

    def find(
        self,
        *,
        outcome: str | None = None,
        backend: str | None = None,
        rule: str | None = None,
        pool: str | None = None,
        limit: int = 50,
    ) -> Iterator[DecisionRecord]:
        """Yield the latest records that fit, newest first, at most ``limit``."""
        for record in reversed(self._records.values()):
            if limit <= 0:
                return
            decision = record.decision
            if outcome is not None and (record.outcome is None or record.outcome.value != outcome):
                continue
            if backend is not None and all(attempt.backend != backend for attempt in record.attempts):
                continue
            if rule is not None and (decision is None or decision.rule_name != rule):
                continue
            if pool is not None and (decision is None or decision.pool != pool):
                continue
            limit -= 1
            yield record
