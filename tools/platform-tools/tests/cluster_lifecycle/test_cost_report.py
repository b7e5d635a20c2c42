"""`cost-report` by its command line, on a fake AWS."""

from pathlib import Path

import pytest

from harness.kubernetes.lifecycle_world import CONTRACT, World, dev_cluster

pytestmark = pytest.mark.programs


def test_the_cost_report_counts_what_carries_the_environments_tag(world: World) -> None:
    dev_cluster(world)
    ec2 = world.client("ec2")
    tags = [
        {"Key": CONTRACT["tags"]["environment"], "Value": "dev"},
        {"Key": CONTRACT["tags"]["component"], "Value": "gpu-nodes"},
    ]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    for environment, count in (("dev", 2), ("prod", 3)):
        tags[0]["Value"] = environment
        ec2.run_instances(
            ImageId=image, MinCount=count, MaxCount=count, InstanceType="g5.xlarge",
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )  # fmt: skip
    report = world.run("cost-report")
    assert report.returncode == 0, report.stderr
    lines = {line.split()[1]: line.split() for line in report.stdout.splitlines() if len(line.split()) > 3}
    assert lines["g5.xlarge"][2:4] == ["2", "2.012"]
    assert lines["eks-cluster"][2] == "1"
    assert "NOT VERIFIED" in report.stdout
    assert "2.112 USD an hour" in report.stdout


def test_nothing_running_is_said(world: World) -> None:
    report = world.run("cost-report")
    assert (report.returncode, report.stdout.strip()) == (0, "nothing of dev runs in us-east-1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hourly: {x: {usd: cheap}}", "hourly.x: usd 'cheap' must be a number"),
        ("hourly: {x: {usd: 1, verified: true}}", "hourly.x: a verified price needs usd and the date"),
        ("prices: {}", "cannot be read as a price file"),
    ],
)
def test_a_bad_price_file_is_refused_by_its_entry(world: World, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    done = world.run("cost-report", "--planned", "--prices", str(tmp_path / "prices.yaml"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
