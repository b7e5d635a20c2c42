"""The settings file is a contract: all unknown settings are refused at once, with line and reason."""

from pathlib import Path

import pytest

from edge_gateway.credentials import load_digests, new_key
from edge_gateway.settings import BadSettings, Settings, load_settings


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_an_empty_file_is_the_local_default(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, ""), {})
    assert settings == Settings()
    assert settings.listen.host == "127.0.0.1"


def test_every_error_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = "listen: {port: 80800}\nrouter:\n  host: a\n  prot: 8000\nlimits:\n  default:\n    burst: many\n"
    with pytest.raises(BadSettings) as caught:
        load_settings(written(tmp_path, text), {})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "settings.yaml:1:16: listen.port" in lines[0]
    assert "80800" in lines[0]
    assert "settings.yaml:4:9: router.prot" in lines[1]
    assert "settings.yaml:7:12: limits.default.burst" in lines[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("admin: {host: 0.0.0.0, port: 9901}\n", "loopback"),
        ("timeouts: {silent_answer_seconds: 700}\n", "connection_idle_seconds must be above"),
        ("limits: {default: {tokens_per_minute: 5}}\n", "needs the section budgets"),
        ("limits: {clients: {a: {requests_per_minute: 5}}}\n", "needs the section budgets"),
        ("limits: {default: {tokens_per_month: 5}}\n", "tokens_per_month needs the section budgets"),
        (
            "limits: {teams: {a: {clients: [b], tokens_per_day: 5}}}\n",
            "limits.teams.a: tokens_per_day needs the section",
        ),
        ("limits: {teams: {a: {clients: [b]}}}\n", "has no budget; give tokens_per_minute"),
        ("limits: {teams: {a: {clients: [], tokens_per_day: 5}}}\n", "at least 1"),
        (
            "limits: {teams: {a: {clients: [c], tokens_per_day: 5}, b: {clients: [c], tokens_per_day: 5}}}\n",
            '"c" is in team a already; remove it from one of them',
        ),
        ("limits: {clients: {'a b': {burst: 5}}}\n", "pattern"),
        ("auth: {mode: jwt}\n", "belong together"),
        ("auth: {mode: jwt, jwt: {issuer: a, audiences: []}}\n", "at least 1"),
        ("auth: {mode: jwt, jwt: {issuer: a, audiences: [b]}}\n", "exactly one of jwks_file and jwks_url"),
        ("auth: {mode: none}\n", "api_keys"),
        ("router: {tls: {ca_file: a, server_name: b, certificate_file: c}}\n", "belong together"),
        ("- a list\n", "must be a mapping"),
        ("a: [\n", "not YAML"),
    ],
)
def test_what_would_be_unsafe_or_senseless_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadSettings, match=said):
        load_settings(written(tmp_path, text), {})


def test_the_environment_names_the_ports(tmp_path: Path) -> None:
    environment = {"EDGE_PORT": "1", "EDGE_ADMIN_PORT": "2", "EDGE_TELEMETRY_PORT": "3", "ROUTER_PORT": "4"}
    settings = load_settings(written(tmp_path, "listen: {port: 8080}\n"), environment)
    assert (settings.listen.port, settings.admin.port) == (1, 2)
    assert (settings.telemetry.port, settings.router.port) == (3, 4)


def test_the_environment_names_the_ports_of_budgets_only_where_there_are_budgets(tmp_path: Path) -> None:
    environment = {"RATE_LIMIT_PORT": "5", "RATE_LIMIT_METRICS_PORT": "6"}
    assert load_settings(written(tmp_path, ""), environment).budgets is None
    budgets = load_settings(written(tmp_path, "budgets: {}\n"), environment).budgets
    assert budgets
    assert (budgets.port, budgets.metrics_port) == (5, 6)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="No such file"):
        load_settings(tmp_path / "absent.yaml", {})


def test_only_digests_leave_the_keys_file(tmp_path: Path) -> None:
    key = new_key()
    path = tmp_path / "keys.yaml"
    path.write_text(f"clients: {{a: [{key}]}}\n")
    path.chmod(0o600)
    digests = load_digests(path)
    assert key not in str(digests)
    assert [len(digest) for digest in digests["a"]] == [64]


def test_new_keys_differ_and_are_long() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(len(key) for key in keys) >= 40
