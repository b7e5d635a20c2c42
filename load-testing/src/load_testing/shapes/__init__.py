"""Rate over time, as linear segments."""

from collections.abc import Callable

from load_testing.measure.arrivals import Segment


def fixed(rate: float, seconds: float) -> list[Segment]:
    """Constant rate."""
    return [Segment(seconds, rate, rate)]


def ramp(rate: float, seconds: float) -> list[Segment]:
    """Linear from a tenth of the rate to the rate."""
    return [Segment(seconds, rate / 10, rate)]


def step(rate: float, seconds: float) -> list[Segment]:
    """Four plateaus of equal length: a quarter, half, three quarters and all of the rate."""
    return [Segment(seconds / 4, rate * part / 4, rate * part / 4) for part in (1, 2, 3, 4)]


def burst(rate: float, seconds: float) -> list[Segment]:
    """Half the rate, and five times that for a tenth of the time in the middle."""
    quiet = Segment(seconds * 0.45, rate / 2, rate / 2)
    return [quiet, Segment(seconds * 0.1, rate * 2.5, rate * 2.5), quiet]


def night(rate: float, seconds: float) -> list[Segment]:
    """Evening, night at a twentieth of the rate, morning."""
    low = rate / 20
    return [
        Segment(seconds * 0.2, rate, low),
        Segment(seconds * 0.6, low, low),
        Segment(seconds * 0.2, low, rate),
    ]


SHAPES: dict[str, Callable[[float, float], list[Segment]]] = {
    "fixed": fixed,
    "ramp": ramp,
    "step": step,
    "burst": burst,
    "night": night,
}
