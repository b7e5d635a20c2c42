"""`scripts/deploy` and `scripts/undeploy`: install and remove the releases of an environment with plain Helm."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from typing import Any

import yaml

from platform_tools.checkout import ROOT
from platform_tools.deploy import community_telemetry
from platform_tools.deploy.context import choose_context
from platform_tools.deploy.entrance import edge_service, last_request
from platform_tools.deploy.first_request import ask
from platform_tools.deploy.needs import CRD_VERSIONS, read_needs
from platform_tools.deploy.pod_watch import PodWatch
from platform_tools.deploy.prerequisites import Cluster, lacks
from platform_tools.deploy.releases import BadRequest, Release, namespaces_of, releases_of
from platform_tools.deploy.upstream import (
    UpstreamChart,
    lacking_charts,
    needed,
    upstream_charts,
    without_cluster_values,
)
from platform_tools.kube_context import WrongCluster

HELM = ROOT / "helm"
LOAD_BALANCER_SECONDS = 300.0


def main(arguments: list[str] | None = None) -> int:
    """Exit 0: success. Exit 1: a prerequisite is missing or a step failed. Exit 2: bad input."""
    options = _parser().parse_args(arguments)
    try:
        parts = None
        if options.command == "deploy" and options.telemetry == "community":
            parts = community_telemetry.parts(
                HELM, options.environment, options.values, ROOT / ".run" / "community"
            )
        releases = releases_of(HELM, options.environment, options.values, parts)
        charts = upstream_charts(HELM, options.environment, options.values)
        options.timeout_seconds = _seconds(options.timeout)
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 2
    try:
        context, cluster = choose_context(
            ROOT / "infrastructure", options.environment, options.context, options.region, options.kubectl
        )
        print(f"{options.environment}: context {context}, cluster {cluster}", flush=True)
        options.kubectl = [*options.kubectl, "--context", context]
        options.helm_context = ["--kube-context", context]
        return (
            _deploy(options, releases, charts)
            if options.command == "deploy"
            else _undeploy(options, releases)
        )
    except (BadRequest, WrongCluster) as error:
        print(error, file=sys.stderr)
        return 1


def _deploy(options: argparse.Namespace, releases: list[Release], charts: list[UpstreamChart]) -> int:
    documents: list[tuple[str, dict[str, Any]]] = []
    for release in releases:
        if release.source:
            continue  # another project's chart, with its own requirements
        # Render as if every operator were installed; `lacks` reports the missing ones with everything else.
        text = _helm(
            options, "template", *release.words(), *(f"--api-versions={one}" for one in CRD_VERSIONS)
        )
        documents += [(release.namespace, found) for found in yaml.load_all(text, yaml.CSafeLoader) if found]
    needs = read_needs(documents)
    if options.telemetry == "community":
        needs.groups.discard("monitoring.coreos.com")  # the first release brings these
    charts = needed(charts, needs)
    if options.upstream:
        return _install_upstream(options, releases, charts)
    print(f"{len(releases)} releases, {len(documents)} objects")
    cluster = Cluster(options.kubectl)
    missing, known = lacks(cluster, needs)
    missing_charts, known_charts = lacking_charts(cluster, charts)
    missing, known = missing_charts + missing, known_charts + known
    for namespace in community_telemetry.namespaces(
        HELM
    ):  # a deployer may see no Secrets of other namespaces
        listed = _helm(options, "list", "--namespace", namespace, "--output", "json", *options.helm_context)
        missing += community_telemetry.in_the_way(HELM, listed, releases)
    for line in known:
        print(f"  note: {line}")
    for line in missing:
        print(f"  missing: {line}", file=sys.stderr)
    if options.dry_run:
        for release in releases:
            print("  " + " ".join(["helm", *_install(options, release)]))
        return 1 if missing else 0
    if missing:
        print("nothing was installed", file=sys.stderr)
        return 1
    _label_namespaces(options, releases)
    watch = PodWatch(cluster, _say)
    for release in releases:
        print(f"  {release.name} ...", flush=True)
        watch.install([options.helm, *_install(options, release)], release, options.timeout_seconds + 60)
    return _first_request(options, cluster, documents)


def _install_upstream(
    options: argparse.Namespace, releases: list[Release], charts: list[UpstreamChart]
) -> int:
    """Install the charts of other projects that the environment's manifests need, and nothing else."""
    lines = without_cluster_values(charts)
    for line in lines:
        print(f"  missing: {line}", file=sys.stderr)
    if lines:
        print("nothing was installed", file=sys.stderr)
        return 1
    if not options.dry_run:
        _label_namespaces(options, releases)
    for chart in charts:
        words = [
            "upgrade", "--install", *chart.words(), *options.helm_context, "--wait", "--timeout", options.timeout,
        ]  # fmt: skip
        if options.dry_run:
            print("  " + " ".join(["helm", *words]))
        else:
            print(f"  {chart.name} {chart.version} ...", flush=True)
            _helm(options, *words)
    done = "would be installed" if options.dry_run else "are installed"
    print(f"{len(charts)} upstream charts {done}; next: scripts/deploy without --upstream")
    return 0


def _label_namespaces(options: argparse.Namespace, releases: list[Release]) -> None:
    """Create the namespaces of the releases and label them, so that pod security is enforced from the first pod on."""
    text = yaml.safe_dump_all(namespaces_of(HELM, releases))
    command = [
        *options.kubectl, "apply", "--server-side", "--force-conflicts", "--field-manager=llm-platform",
        "--validate=false", "-f", "-",
    ]  # fmt: skip
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise BadRequest(f"kubectl apply of the namespaces: {done.stderr.strip() or done.stdout.strip()}")


def _install(options: argparse.Namespace, release: Release) -> list[str]:
    return [
        "upgrade", "--install", *release.words(), *options.helm_context, "--create-namespace", "--wait", "--timeout",
        options.timeout,
    ]  # fmt: skip


def _first_request(
    options: argparse.Namespace, cluster: Cluster, documents: list[tuple[str, dict[str, Any]]]
) -> int:
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        print(
            "All releases are ready. No request was made: set OPENAI_API_KEY to one of your keys and run it again."
        )
    elif options.edge_url:
        print(f"answered: {ask(options.edge_url, key)}")
    else:
        edge = edge_service(documents)
        for line in last_request(cluster, options.kubectl, edge, key, LOAD_BALANCER_SECONDS):
            print(line)
    return 0


def _undeploy(options: argparse.Namespace, releases: list[Release]) -> int:
    there = _helm(options, "list", "--all-namespaces", "--short", *options.helm_context).split()
    own = {(release.name, release.namespace) for release in releases}
    releases = [
        one
        for one in community_telemetry.community_releases(HELM, options.environment)
        if (one.name, one.namespace) not in own
    ] + releases
    watch = PodWatch(Cluster(options.kubectl), _say)
    for release in reversed(releases):
        command = [
            "uninstall", release.name, "--namespace", release.namespace, *options.helm_context, "--wait",
            "--timeout", options.timeout,
        ]  # fmt: skip
        is_there = release.name in there
        if options.dry_run:
            if is_there:
                print("  " + " ".join(["helm", *command]))
            continue
        if is_there:
            print(f"  {release.name} ...", flush=True)
            _remove_test_pods(options, release)
            _helm(options, *command)
        # The edge's requests need the router, and the router's need engines, so each release ends before the
        # next. An interrupted run may have left terminating pods.
        watch.wait_until_gone(release, options.timeout_seconds, only_ending=not is_there)
    count = sum(release.name in there for release in releases)
    done = "would be removed" if options.dry_run else "removed and their pods have ended"
    print(f"{count} releases {done}; volumes, Secrets and namespaces stay")
    return 0


def _remove_test_pods(options: argparse.Namespace, release: Release) -> None:
    """Remove the pods of failed `helm test` runs: Helm keeps them for their logs, also after `helm uninstall`."""
    words = [
        "delete",
        "pods",
        "-n",
        release.namespace,
        "-l",
        f"app.kubernetes.io/instance={release.name}-test",
    ]
    done = subprocess.run(
        [*options.kubectl, *words, "--ignore-not-found", "--wait=false"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise BadRequest(f"kubectl {' '.join(words)}: {done.stderr.strip()}")


def _helm(options: argparse.Namespace, *words: str) -> str:
    try:
        done = subprocess.run(
            [options.helm, *words], capture_output=True, text=True, check=False, timeout=3600
        )
    except FileNotFoundError:
        raise BadRequest(f"{options.helm} is not installed") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise BadRequest(f"helm {' '.join(words[:3])}: {said}")
    return done.stdout


def _seconds(duration: str) -> float:
    """Return the seconds of a duration in Helm's form: 40m, 1h30m, 90s.

    Raises:
        BadRequest: another form.
    """
    parts = re.findall(r"(\d+)([hms])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise BadRequest(f'--timeout "{duration}" is not a duration such as 40m, 1h30m or 90s')
    return float(sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts))


def _say(line: str) -> None:
    print(line, flush=True)


def _tool(name: str) -> str:
    own = ROOT / ".run" / "tools" / name
    return str(own) if own.exists() else name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="platform-deploy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("deploy", "undeploy"):
        command = commands.add_parser(name)
        command.add_argument("environment", help="a folder of helm/environments: dev, prod, kind, sim")
        command.add_argument(
            "-f", "--values", action="append", default=[], metavar="[RELEASE=]FILE",
            help="values for every release, as scripts/cluster-up writes them, or for one: router=values.yaml",
        )  # fmt: skip
        command.add_argument("--dry-run", action="store_true", help="print the actions and what is missing")
        if name == "deploy":
            command.add_argument(
                "--upstream", action="store_true",
                help="install the charts of other projects that the environment needs (helm/releases.yaml), then stop",
            )  # fmt: skip
            command.add_argument(
                "--telemetry", choices=("own", "community"), default="own",
                help="own: one process for each of Prometheus, Grafana, Loki and Tempo. community: kube-prometheus-stack, "
                "Loki and Tempo of helm/community",
            )  # fmt: skip
        command.add_argument("--timeout", default="40m", help="for each release")
        command.add_argument(
            "--context", help="kubeconfig context; default: the one of the environment's cluster"
        )
        command.add_argument("--region", help="overrides the region in the environment's .tfvars file")
        command.add_argument(
            "--edge-url", help="URL of the edge; default: its load balancer, else a forwarded port"
        )
        command.add_argument("--helm", default=os.environ.get("HELM", _tool("helm")))
        command.add_argument("--kubectl", nargs="+", default=[os.environ.get("KUBECTL", _tool("kubectl"))])
    return parser


if __name__ == "__main__":
    sys.exit(main())
