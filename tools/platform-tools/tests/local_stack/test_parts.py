"""The parts of the stack, as data."""

from collections import Counter
from collections.abc import Callable

import pytest
import yaml

from platform_tools.local_stack.parts import configured_parts, redis_configuration
from platform_tools.local_stack.router_configuration import router_config_in_use, with_ports
from platform_tools.local_stack.settings import Settings
from platform_tools.local_stack.stack import _stages

Make = Callable[..., Settings]


@pytest.mark.parametrize("profile", ["vllm", "sim"])
def test_no_two_parts_share_a_name_or_a_port(settings_of: Make, profile: str) -> None:
    parts = configured_parts(settings_of(PROFILE=profile))
    names = Counter(part.name for part in parts)
    ports = Counter(port for part in parts for port in part.ports.values())
    assert max(names.values()) == max(ports.values()) == 1


def test_both_profiles_have_the_same_parts_on_the_same_ports(settings_of: Make) -> None:
    def shape(profile: str) -> dict[str, dict[str, int]]:
        return {part.name: dict(part.ports) for part in configured_parts(settings_of(PROFILE=profile))}

    assert shape("vllm") == shape("sim")


def test_the_edge_stops_first_then_the_router_then_the_rest(settings_of: Make) -> None:
    stages = _stages(configured_parts(settings_of()))
    assert [part.name for part in stages[0]] == ["edge"]
    assert [part.name for part in stages[1]] == ["router"]
    assert {"backend-a", "agent-a", "redis"} <= {part.name for part in stages[2]}


def test_every_part_listens_on_loopback_only(settings_of: Make) -> None:
    settings = settings_of()
    assert "bind 127.0.0.1\n" in redis_configuration(settings)
    for part in configured_parts(settings):
        assert not any("0.0.0.0" in word or word == "--host" for word in part.command)


def test_the_router_reads_the_given_file_as_long_as_the_ports_are_the_defaults(settings_of: Make) -> None:
    settings = settings_of()
    assert router_config_in_use(settings) == settings.router_config
    assert router_config_in_use(settings_of(ROUTER_PORT="18000")) == settings.router_config
    assert router_config_in_use(settings_of(REDIS_PORT="16380")) != settings.router_config


def test_a_copy_with_other_ports_differs_from_the_file_in_nothing_else(settings_of: Make) -> None:
    settings = settings_of(
        ENGINE_A_PORT="18101",
        ENGINE_B_PORT="18102",
        AGENT_A_PORT="18111",
        AGENT_B_PORT="18112",
        REDIS_PORT="16380",
    )
    text = settings.router_config.read_text()
    copy = with_ports(text, settings, settings.router_config.parent)
    assert len(copy.splitlines()) == len(text.splitlines())
    before, after = yaml.safe_load(text), yaml.safe_load(copy)
    assert after["redis"]["url"] == "redis://127.0.0.1:16380/0"
    backend = after["pools"]["long-form"]["backends"]["backend-b"]
    assert backend == {"url": "http://127.0.0.1:18102", "health_url": "http://127.0.0.1:18112/readyz"}
    assert after["routing"]["rules_file"] == str(settings.router_config.parent / "rules.yaml")
    for same in ("timeouts", "retries", "limits", "breaker"):
        assert after[same] == before[same]
