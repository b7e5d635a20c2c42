"""`api_version` of the edge's settings, and keys under their former names."""

from pathlib import Path

import pytest

from edge_gateway import settings as module
from edge_gateway.settings import BadSettings, Settings, load_settings
from platform_contracts.configuration_versions import Renamed


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_the_version_may_be_left_out(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "api_version: v1\n"), {}) == Settings()


def test_another_version_is_the_only_problem(tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as caught:
        load_settings(written(tmp_path, "lissten: {}\napi_version: v2\n"), {})
    assert str(caught.value) == (
        f'{tmp_path}/settings.yaml:2:14: api_version: "v2" is not a version that this release reads (known: v1); '
        "write api_version: v1 with the keys of docs/edge-settings.md, or upgrade this program"
    )


def test_a_former_key_works_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = (Renamed(("proxies",), ("trusted_proxies",), "0.3.0"),)
    monkeypatch.setattr(module, "FORMER_KEYS", renamed)
    warnings: list[str] = []
    settings = load_settings(written(tmp_path, "proxies: 2\n"), {}, warnings.append)
    assert settings.trusted_proxies == 2
    assert warnings == [
        f"{tmp_path}/settings.yaml:1:10: proxies: is called trusted_proxies now; rename it before release 0.3.0"
    ]
    with pytest.raises(BadSettings, match=r"settings.yaml:1:10: trusted_proxies: .*less than or equal to 5"):
        load_settings(written(tmp_path, "proxies: 9\n"), {}, warnings.append)
