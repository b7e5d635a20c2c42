"""What stopped a run: the platform's own verdict for its time, with the generator's share ruled out."""

from dataclasses import asdict, dataclass

from observability.prometheus_api import Prometheus


@dataclass(frozen=True, slots=True)
class Evidence:
    """The verdict that held longest, and the share of the run in which it held."""

    verdict: str
    pool: str
    share: float

    @property
    def sentence(self) -> str:
        if self.verdict == "unknown":
            return "unknown: Prometheus holds no verdict for this time"
        return f"{self.verdict} in pool {self.pool}, for {self.share:.0%} of the run"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def limiting_resource(prometheus_url: str, start: float, end: float) -> Evidence:
    """Ask the recording rules which layer was the bottleneck between two epoch times."""
    prometheus = Prometheus(prometheus_url)
    step = 5.0
    best = Evidence("unknown", "", 0.0)
    for series in prometheus.range("pool:bottleneck:verdict == 1", start, end, step):
        share = min(len(series.points) * step / max(end - start, step), 1.0)
        verdict = series.labels.get("verdict", "unknown")
        if verdict != "none" and share > best.share:
            best = Evidence(verdict, series.labels.get("pool", ""), share)
    return best
