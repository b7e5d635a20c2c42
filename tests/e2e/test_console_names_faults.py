"""The console's page Now, in a real browser, names a fault within 60 s at every width and scheme.

The short form takes one fault; `FULL=1` takes all. The chaos suite checks the same page for every fault of its table.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.browser import opened
from harness.chaos.now_page import page_text
from harness.named_pages import NAMED_SECONDS
from harness.stacks.faults import frozen, pid_of
from harness.stacks.local import Stack
from harness.stacks.observed import Observed
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.timeout(400)]

PICTURES = os.environ.get("CONSOLE_PICTURES")


@contextlib.contextmanager
def wedged(platform: Observed) -> Iterator[None]:
    with platform.platform.engines["b"].fault("wedge"):
        yield


@contextlib.contextmanager
def without_store(platform: Observed) -> Iterator[None]:
    with frozen(pid_of(platform.stack, "redis")):
        yield


@contextlib.contextmanager
def frozen_engine(platform: Observed) -> Iterator[None]:
    with frozen(pid_of(platform.stack, "backend-b")):
        yield


Cause = Callable[[Observed], AbstractContextManager[None]]
FAULTS: dict[str, tuple[Cause, list[str]]] = {
    "wedged": (wedged, ["BackendStuck (backend-b)", "backend-b is stuck"]),
    "without-store": (without_store, ["AffinityStoreDown", "affinity store lost"]),
    "frozen-engine": (frozen_engine, ["BackendUnreachable (backend-b)", "backend-b is unreachable"]),
}


def ready(stack: Stack) -> bool:
    return all(row["why"] is None for row in stack.states().values())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "wedged" else [pytest.mark.full]) for name in FAULTS]
)
def test_the_page_names_a_fault_at_every_width_and_scheme(name: str, observed_stack: Observed) -> None:
    cause, words = FAULTS[name]
    url = observed_stack.stack.url("CONSOLE_PORT")
    with cause(observed_stack):
        began = time.monotonic()
        eventually(
            lambda: all(word in page_text(url) for word in words),
            lambda: f"the page shows {words}: {page_text(url)}",
            NAMED_SECONDS,
            1.0,
        )
        print(f"{name}: named after {time.monotonic() - began:.0f} s")
        pages = opened(url, {f"fault-{name}": "/"}, pictures=Path(PICTURES) if PICTURES else None)
    for page in pages:
        missing = [word for word in words if word not in " ".join(page.text.split())]
        assert not missing, f"{page.width} px, {page.scheme}: no {missing} in {page.text}"
        assert page.wrong == []
    eventually(lambda: ready(observed_stack.stack), "every part is ready again", 90, 2.0)
