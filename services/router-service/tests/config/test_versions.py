"""`api_version` of the configuration and the rules file, and keys under their former names."""

from pathlib import Path
from typing import Any

import pytest

from platform_contracts.configuration_versions import Renamed
from router_service.cli.commands import main as command
from router_service.config import BadConfig, former_keys, load
from router_service.reload import Reloader

TEXT = "pools: {p: {models: [m], backends: {b: {url: 'http://h:1'}}}}\nrouting: {default_pool: p, rules_file: rules.yaml}\n"
RENAMED = (Renamed(("limits", "waiting_seconds"), ("limits", "queue_seconds"), "0.3.0"),)


def written(folder: Path, main: str = "", rules: str = "") -> Path:
    (folder / "rules.yaml").write_text(rules)
    path = folder / "router.yaml"
    path.write_text(TEXT + main)
    return path


def test_the_version_may_be_left_out_and_does_not_change_the_hash(tmp_path: Path) -> None:
    without = load(written(tmp_path)).hash
    assert load(written(tmp_path, "api_version: v1\n", "api_version: v1\n")).hash == without


@pytest.mark.parametrize(
    ("main", "rules", "place", "reference"),
    [
        ("servr: {}\napi_version: v2\n", "", "router.yaml:4:14", "docs/configuration.md"),
        ("", "rule: []\napi_version: v2\n", "rules.yaml:2:14", "docs/routing-rules.md"),
    ],
    ids=["configuration", "rules"],
)
def test_another_version_is_the_only_problem_of_its_file(
    tmp_path: Path, main: str, rules: str, place: str, reference: str
) -> None:
    with pytest.raises(BadConfig) as caught:
        load(written(tmp_path, main, rules))
    (problem,) = str(caught.value).splitlines()
    assert problem == (
        f'{tmp_path}/{place}: api_version: "v2" is not a version that this release reads (known: v1); write '
        f"api_version: v1 with the keys of {reference}, or upgrade this program"
    )


def test_both_files_of_another_version_are_reported(tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        load(written(tmp_path, "limits: {queue_seconds: x}\n", "api_version: v2\n"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_former_key_works_and_check_names_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(former_keys, "CONFIGURATION", RENAMED)
    path = written(tmp_path, "limits: {waiting_seconds: 7}\n")
    assert load(path).values.limits.queue_seconds == 7
    assert command(["check", "--config", str(path)]) == 0
    said = capsys.readouterr().out
    warning = "router.yaml:3:27: limits.waiting_seconds: is called limits.queue_seconds now; rename it before release 0.3.0"
    assert f"warning: {tmp_path}/{warning}\n" in said


def test_a_former_key_with_a_wrong_value_is_reported_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(former_keys, "CONFIGURATION", RENAMED)
    with pytest.raises(BadConfig, match=r"router.yaml:3:27: limits.queue_seconds: .*greater"):
        load(written(tmp_path, "limits: {waiting_seconds: -1}\n"))


def test_a_former_key_of_the_rules_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = (Renamed(("rules", "*", "to"), ("rules", "*", "route_to"), "0.3.0"),)
    monkeypatch.setattr(former_keys, "RULES", renamed)
    config = load(written(tmp_path, "", "rules: [{name: r, when: {stream: true}, to: p}]\n"))
    assert config.rules[0].route_to == "p"
    assert ["rules.yaml:1:45: rules[0].to:" in warning for warning in config.warnings] == [True]


def test_a_reload_logs_former_keys_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former_keys, "CONFIGURATION", RENAMED)
    logged: list[tuple[str, str, Any]] = []
    path = written(tmp_path)
    reloader = Reloader(
        path, load(path), lambda _: None, lambda level, event, **values: logged.append((level, event, values))
    )
    written(tmp_path, "limits: {waiting_seconds: 7}\n")
    reloader.reload()
    reloader.reload()
    renamed = [
        (level, values["problems"]) for level, event, values in logged if event == "config_key_renamed"
    ]
    assert [level for level, _ in renamed] == ["warning"]
    assert "limits.queue_seconds" in renamed[0][1][0]
