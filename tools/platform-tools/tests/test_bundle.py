"""`scripts/bundle`: copies images and charts from one registry to another that is reachable only by loopback."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.tools import tool
from harness.ports import free_port
from harness.programs import require
from platform_tools.bundle import images_of, inside

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = [sys.executable, str(ROOT / "scripts/bundle")]
INSIDE = """
set -eu
ip link set lo up
docker-registry serve inside.yml > inside.log 2>&1 & registry=$!
trap 'kill $registry' EXIT
until curl -sf "http://$REGISTRY/v2/"; do sleep 0.2; done
if curl -s -m 2 http://1.1.1.1; then echo "there is a network"; exit 1; fi
"$@" push bundle --registry "$REGISTRY"
"$@" push bundle --registry "$REGISTRY"
for image in $(cat bundle/images.txt); do
  skopeo inspect --tls-verify=false --raw "docker://$REGISTRY/$image" | sha256sum
done
mkdir -p pulled
helm pull --plain-http "oci://$REGISTRY/charts/llm-platform" -d pulled
helm template llm pulled/llm-platform-*.tgz -n llm -f sim.yaml > rendered.yaml
"""


def registry(folder: Path, name: str, address: str) -> Path:
    settings = folder / f"{name}.yml"
    settings.write_text(yaml.safe_dump({
        "version": 0.1, "storage": {"filesystem": {"rootdirectory": str(folder / name)}},
        "http": {"addr": address},
    }))  # fmt: skip
    return settings


@pytest.mark.service
@pytest.mark.untimed
@pytest.mark.timeout(600)
def test_a_bundle_moves_the_platform_into_a_registry_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("docker-registry", "skopeo", "unshare"):
        require(program, f"install it: apt-get install --no-install-recommends {program}")
    outer, inner = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    path = {**os.environ, "PATH": f"{tool('helm').parent}:{os.environ['PATH']}", "REGISTRY": inner}

    def run(*words: object, **more: object) -> str:
        done = subprocess.run(
            [str(word) for word in words], cwd=tmp_path, env=path, capture_output=True, text=True, check=False, timeout=170,
            **more,  # type: ignore[call-overload]
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    outside = subprocess.Popen(
        ["docker-registry", "serve", registry(tmp_path, "outside", outer)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        run(*f"curl -sf --retry 50 --retry-delay 1 --retry-connrefused http://{outer}/v2/".split())
        digest = _tiny_image(tmp_path / "tiny")
        (tmp_path / "pinned.yaml").write_text(f'image: {{digest: "{digest}"}}\n')
        pinned = f"redis={tmp_path / 'pinned.yaml'}"
        monkeypatch.setenv("PATH", path["PATH"])
        names = [inside(image) for image in images_of("sim", [pinned])]
        assert f"library/redis@{digest}" in names
        assert "llm-platform/router-service:0.1.0" in names
        for name in names:
            target = f"docker://{outer}/{name.partition('@')[0]}"
            run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path / 'tiny'}:tiny", target)
        run(
            *BUNDLE, "create", "bundle", "--environment", "sim", "--no-wheels",
            "--registry", f"{outer}/llm-platform", "--mirror", outer, "-f", pinned,
        )  # fmt: skip
    finally:
        outside.terminate()
        outside.wait()
    registry(tmp_path, "inside", inner)
    shutil.copy(ROOT / "helm/llm-platform/environments/sim.yaml", tmp_path)
    said = run("unshare", "--net", "bash", "-c", INSIDE, "inside", *BUNDLE)
    digests = [line for line in said.splitlines() if line.endswith("  -")]
    assert len(digests) == len(names)
    assert len(set(digests)) == 1
    assert (tmp_path / "rendered.yaml").read_text().count("kind: Deployment") >= 5

    damaged = tmp_path / "bundle/charts/llm-redis-0.1.0.tgz"
    damaged.write_bytes(b"x")
    push = [*BUNDLE, "push", "bundle", "--registry", inner]
    done = subprocess.run(push, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "llm-redis-0.1.0.tgz is missing or damaged" in done.stderr


def _tiny_image(folder: Path) -> str:
    """Write an OCI layout with one image that has an empty layer; return its digest."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    layer = bytes(1024)
    facts = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }  # fmt: skip
    config = put(json.dumps(facts).encode(), "config.v1+json")
    layers = [put(gzip.compress(layer, mtime=0), "layer.v1.tar+gzip")]
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "tiny"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(entry["digest"])
