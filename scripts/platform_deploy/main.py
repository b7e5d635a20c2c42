"""`scripts/deploy` and `scripts/undeploy`: the platform's releases with plain Helm. Knows the order, nothing of AWS."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from platform_deploy.first_request import ask, forwarded
from platform_deploy.needs import CRD_VERSIONS, read_needs
from platform_deploy.prerequisites import Cluster, lacks
from platform_deploy.releases import BadRequest, Release, releases_of

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Exit 0 fine, 1 something is missing or failed, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        releases = releases_of(ROOT / "helm", options.environment, options.values)
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 2
    try:
        return _deploy(options, releases) if options.command == "deploy" else _undeploy(options, releases)
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 1


def _deploy(options: argparse.Namespace, releases: list[Release]) -> int:
    documents: list[tuple[str, dict[str, Any]]] = []
    for release in releases:
        # As if every operator were there: which of them the cluster lacks is said below, with everything else.
        text = _helm(
            options, "template", *release.words(), *(f"--api-versions={one}" for one in CRD_VERSIONS)
        )
        documents += [(release.namespace, found) for found in yaml.load_all(text, yaml.CSafeLoader) if found]
    print(f"{len(releases)} releases, {len(documents)} objects")
    cluster = Cluster(options.kubectl)
    missing, known = lacks(cluster, read_needs(documents))
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
    for release in releases:
        print(f"  {release.name} ...", flush=True)
        _helm(options, *_install(options, release))
    return _first_request(options, documents)


def _install(options: argparse.Namespace, release: Release) -> list[str]:
    return [
        "upgrade", "--install", *release.words(), "--create-namespace", "--wait", "--timeout", options.timeout,
    ]  # fmt: skip


def _first_request(options: argparse.Namespace, documents: list[tuple[str, dict[str, Any]]]) -> int:
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        print(
            "All releases are ready. No request was made: set OPENAI_API_KEY to one of your keys and run it again."
        )
        return 0
    if options.edge_url:
        print(f"answered: {ask(options.edge_url, key)}")
        return 0
    port, scheme = _edge_port(documents)
    with (
        tempfile.TemporaryDirectory() as folder,
        forwarded(options.kubectl, Path(folder) / "log", port, scheme) as url,
    ):
        print(f"answered: {ask(url, key, verify=False)}")
    return 0


def _edge_port(documents: list[tuple[str, dict[str, Any]]]) -> tuple[int, str]:
    """Return the port of the edge's Service and its scheme, which the chart makes the port's name."""
    (service,) = (
        one for _, one in documents if one["kind"] == "Service" and one["metadata"]["name"] == "edge-gateway"
    )
    (port,) = service["spec"]["ports"]
    return port["port"], port["name"]


def _undeploy(options: argparse.Namespace, releases: list[Release]) -> int:
    there = _helm(options, "list", "--all-namespaces", "--short").split()
    found = [release for release in reversed(releases) if release.name in there]
    for release in found:
        command = [
            "uninstall",
            release.name,
            "--namespace",
            release.namespace,
            "--wait",
            "--timeout",
            options.timeout,
        ]
        if options.dry_run:
            print("  " + " ".join(["helm", *command]))
        else:
            print(f"  {release.name} ...", flush=True)
            _helm(options, *command)
    print(
        f"{len(found)} releases {'would be ' if options.dry_run else ''}removed; volumes, Secrets and namespaces stay"
    )
    return 0


def _helm(options: argparse.Namespace, *words: str) -> str:
    done = subprocess.run([options.helm, *words], capture_output=True, text=True, check=False, timeout=3600)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise BadRequest(f"helm {' '.join(words[:3])}: {said}")
    return done.stdout


def _tool(name: str) -> str:
    own = ROOT / ".run" / "tools" / name
    return str(own) if own.exists() else name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="platform-deploy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("deploy", "undeploy"):
        command = commands.add_parser(name)
        command.add_argument("environment", help="a folder of helm/environments: dev, prod, kind")
        command.add_argument(
            "-f", "--values", type=Path, action="append", default=[],
            help="values for every release, as scripts/cluster-up writes them",
        )  # fmt: skip
        command.add_argument(
            "--dry-run", action="store_true", help="say what would be done and what is missing"
        )
        command.add_argument("--timeout", default="40m", help="for each release")
        command.add_argument("--edge-url", help="where the edge is reached; default: a forwarded port")
        command.add_argument("--helm", default=os.environ.get("HELM", _tool("helm")))
        command.add_argument("--kubectl", nargs="+", default=[os.environ.get("KUBECTL", _tool("kubectl"))])
    return parser


if __name__ == "__main__":
    sys.exit(main())
