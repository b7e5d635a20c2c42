"""Settings from variables of `make`, and stored settings of a running stack."""

from collections.abc import Callable

import pytest

from platform_tools.local_stack.settings import DEFAULT_PORTS, MAX_SOCKET_PATH, BadRequest, Settings

Make = Callable[..., Settings]


def test_without_variables_the_documented_defaults_hold(settings_of: Make) -> None:
    settings = settings_of()
    assert settings.profile == "vllm"
    assert dict(settings.ports) == dict(DEFAULT_PORTS)
    assert settings.url("EDGE_PORT", "/v1") == "http://127.0.0.1:8080/v1"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PROFILE": "gpu"}, 'PROFILE="gpu" is not a profile (known: vllm, sim)'),
        ({"EDGE_PORT": "http"}, 'EDGE_PORT="http" is not a port (1 to 65535)'),
        ({"EDGE_PORT": "70000"}, 'EDGE_PORT="70000" is not a port (1 to 65535)'),
        ({"EDGE_PORT": "8000"}, "EDGE_PORT and ROUTER_PORT are both 8000; give one of them another port"),
    ],
)
def test_a_bad_variable_is_named_with_its_value(
    settings_of: Make, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        settings_of(**environment)
    assert str(caught.value) == message


def test_a_running_stack_is_found_again_without_its_variables(settings_of: Make) -> None:
    started = settings_of(PROFILE="sim", EDGE_PORT="18080")
    started.run_dir.mkdir()
    started.remember()
    assert settings_of() == started
    assert settings_of(EDGE_PORT="18081").port("EDGE_PORT") == 18081


def test_a_damaged_stack_file_counts_as_none(settings_of: Make) -> None:
    settings = settings_of()
    settings.run_dir.mkdir()
    settings.stack_file.write_text("{half")
    assert settings_of() == settings


def test_the_supervisors_socket_fits_whatever_the_checkouts_path(settings_of: Make) -> None:
    deep = settings_of(RUN_DIR="/" + "very/deep/" * 20)
    assert len(str(deep.supervisor_socket)) <= MAX_SOCKET_PATH
