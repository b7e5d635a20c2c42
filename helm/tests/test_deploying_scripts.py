"""Lines of docs/deploying.md that call scripts/ run as written, in the page's order.

AWS is moto, the cluster a fake API server behind a fake tunnel, and `helm` renders but records changes.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from harness.kubernetes.deploy_script import HANDED_OVER, UPSTREAM, Script, releases_in
from harness.kubernetes.fake_api_server import FakeKubernetes
from harness.stacks.local import ROOT
from platform_tools.environment_files import variables

pytestmark = pytest.mark.programs

PAGE = (ROOT / "docs" / "deploying.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [
    line.split(" #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if re.search(r"(^|\s)scripts/[a-z-]+", line.split(" #")[0])
]
ELSEWHERE = {
    "scripts/pin-images": "helm/tests/test_building_images.py",
    "scripts/why-ttft --prometheus http://127.0.0.1:9090": "services/observability/tests/test_hanging_and_changes.py",
}
"""Lines that change the checkout or need a Prometheus, and the test that runs their program."""


@pytest.fixture
def checkout(tmp_path: Path, script: Script, cluster: FakeKubernetes) -> Iterator[Path]:
    """Yield a folder with the scripts and the files of the steps before; the tunnel to `llm-dev` is open."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    written = tmp_path / ".run" / "cluster"
    written.mkdir(parents=True)
    (written / "dev.values.yaml").write_text(yaml.safe_dump(HANDED_OVER))
    for chart in UPSTREAM:
        if chart.get("cluster_values"):
            (written / f"dev.{chart['name']}.values.yaml").write_text("{}\n")
    (tmp_path / ".run" / "deploy").mkdir()
    (tmp_path / ".run" / "deploy" / "key").write_text("")  # test_deploy.py makes the first request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        script.environment |= {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        }  # fmt: skip
        eks = boto3.client(
            "eks", region_name=str(variables(ROOT / "infrastructure", "dev")["region"]),
            endpoint_url=f"http://{host}:{port}", aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip
        made = eks.create_cluster(
            name="llm-dev",
            roleArn="arn:aws:iam::123456789012:role/x",
            resourcesVpcConfig={"subnetIds": ["subnet-1"]},
        )["cluster"]
        endpoint = str(urlsplit(made["endpoint"]).hostname)
        cluster.kubeconfig(Path(script.environment["KUBECONFIG"]), made["arn"], endpoint)
        yield tmp_path
    finally:
        server.stop()


def test_the_scripts_of_the_page_run_as_written(checkout: Path, script: Script) -> None:
    assert [line for line in ELSEWHERE if line not in LINES] == []
    assert [file for file in ELSEWHERE.values() if not (ROOT / file).is_file()] == []
    here = [line for line in LINES if line not in ELSEWHERE]
    printed = []
    for line in here:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], cwd=checkout, capture_output=True, text=True, check=False,
            timeout=200, env={**script.environment, "PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        printed.append(done.stdout)
    upstream = [one["name"] for one in UPSTREAM if "dev" in one.get("environments", ["dev"])]
    names = [line.split()[2] for line in script.installed if line.startswith("upgrade")]
    assert names == [*upstream, *releases_in("dev")]
    assert any(f"{len(upstream)} upstream charts are installed" in text for text in printed)
    assert f"{len(releases_in('dev'))} releases would be removed" in printed[-1]
    assert [line for line in script.installed if line.startswith("uninstall")] == [], "a dry run"
