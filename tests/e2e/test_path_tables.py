"""The edge admits exactly the paths that the router forwards."""

from pathlib import Path

import yaml

from router_service.openai_api.paths import INFERENCE_PATHS

ROOT = Path(__file__).resolve().parents[2]


def test_edge_and_router_list_the_same_paths() -> None:
    table = yaml.safe_load((ROOT / "services/edge-gateway/envoy/paths.yaml").read_text())["paths"]
    posted = {entry["path"] for entry in table if entry["method"] == "POST"}
    assert posted == set(INFERENCE_PATHS)
    listed = {entry.get("name", entry.get("path")) for entry in table if entry["method"] == "GET"}
    assert listed == {"/v1/models", "/v1/models/{id}", "/v1/requests/{id}"}
