"""The client packages that applications use make their usual calls against an edge, a router and an engine simulator."""

from collections.abc import Iterator

import pytest

from harness.servers.router_fleet import fleet_in
from harness.stacks.client_platform import (
    AI_SDK,
    CHAT,
    MESSAGE,
    RESPONSE,
    SIMULATED,
    Platform,
    client_platform,
)

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("clients")
    with fleet_in(folder) as fleet:
        engine = fleet.add_engine("engine-a")
        with client_platform(folder, fleet, engine.url) as found:
            yield found


def test_openai(platform: Platform) -> None:
    found = platform.calls("openai", CHAT)
    found.pop("broken_response")
    assert found == SIMULATED["openai"]
    assert platform.calls("openai", RESPONSE)["broken_response"] == "APIError"


@pytest.mark.parametrize(
    ("package", "first"), [("anthropic", MESSAGE), ("litellm", CHAT), ("langchain", CHAT)]
)
def test_packages_on_other_apis(platform: Platform, package: str, first: bytes) -> None:
    assert platform.calls(package, first) == SIMULATED[package]


def test_openai_in_javascript_and_the_ai_sdk(platform: Platform) -> None:
    found = platform.javascript_calls()
    assert found.pop("openai") == SIMULATED["openai in JavaScript"]
    assert found == {"compatible": AI_SDK, "responses": AI_SDK, "anthropic": AI_SDK}
