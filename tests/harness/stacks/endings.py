"""Stops a session's stack after the last module that uses it. A pytest plugin; it starts no stack.

An idle stack of a dozen processes would slow the tests that follow. A stack's fixture starts the stack with
`until_last_user`.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

import pytest

Value = TypeVar("Value")

_open = pytest.StashKey[dict[str, ExitStack]]()
_last = pytest.StashKey[dict[str, pytest.Item]]()


@contextlib.contextmanager
def until_last_user(request: pytest.FixtureRequest, opened: AbstractContextManager[Value]) -> Iterator[Value]:
    """Enter ``opened`` for a session fixture; leave it after the last module that uses the fixture."""
    assert request.fixturename is not None
    with ExitStack() as stack:
        request.config.stash.setdefault(_open, {})[request.fixturename] = stack
        yield stack.enter_context(opened)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find the last test of the last module that uses each fixture."""
    users: dict[str, set[str]] = {}
    for item in session.items:
        for name in _used(item):
            users.setdefault(name, set()).add(_module(item))
    last = session.config.stash.setdefault(_last, {})
    for item in session.items:
        last.update({name: item for name, modules in users.items() if _module(item) in modules})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """After the teardown of a test and of its module's fixtures, stop the stacks without further users."""
    yield
    stacks = item.config.stash.get(_open, {})
    for name in [name for name in stacks if item.config.stash[_last].get(name) is item]:
        stacks.pop(name).close()


def _used(item: pytest.Item) -> set[str]:
    """Return the fixtures of a test; a parametrized `stack` asks for another one by its name."""
    names = set(getattr(item, "fixturenames", ()))
    call = getattr(item, "callspec", None)
    if call is not None and "stack" in call.params:
        names.add(f"{call.params['stack']}_stack")
    return names


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
