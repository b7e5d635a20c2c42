"""The edge admits exactly the paths that the router forwards."""

from pathlib import Path

import yaml

from router_service.openai_api.paths import CANCEL, INFERENCE_PATHS, RETRIEVE

ROOT = Path(__file__).resolve().parents[2]


def test_edge_and_router_list_the_same_paths() -> None:
    table = yaml.safe_load((ROOT / "services/edge-gateway/envoy/paths.yaml").read_text())["paths"]
    posted = {entry.get("name", entry.get("path")) for entry in table if entry["method"] == "POST"}
    assert posted == {*INFERENCE_PATHS, CANCEL.path}
    listed = {entry.get("name", entry.get("path")) for entry in table if entry["method"] == "GET"}
    assert listed == {"/v1/models", "/v1/models/{id}", "/v1/requests/{id}", RETRIEVE.path}
