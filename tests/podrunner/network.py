"""Services and network policies as kube-proxy and a network plugin would apply them.

Pure functions from manifests to rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]
DOMAIN = "cluster.local"


@dataclass(frozen=True)
class PodAddress:
    """What the rules need of a pod: identity, address, and whether Services may send to it."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ip: str
    ports: Mapping[str, int] = field(default_factory=dict)
    ready: bool = False
    terminating: bool = False


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector matches; an empty selector matches everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions", []):
        value, operator = labels.get(term["key"]), term["operator"]
        known = {
            "In": value in term.get("values", []),
            "NotIn": value not in term.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not known[operator]:
            return False
    return True


def filter_rules(
    pod: PodAddress, policies: Iterable[Document], pods: Sequence[PodAddress], node_ip: str
) -> str:
    """Return the iptables-restore filter table for one pod's namespace: allowed ingress and egress."""
    lines = [
        "*filter", ":INPUT ACCEPT [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]",
        "-A INPUT -i lo -j ACCEPT",
        "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        f"-A INPUT -s {node_ip} -j ACCEPT",  # The kubelet's probes are always allowed.
        "-A OUTPUT -o lo -j ACCEPT",
        "-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    ]  # fmt: skip
    mine = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    for chain, direction, peers_key, flag in (
        ("INPUT", "Ingress", "from", "-s"),
        ("OUTPUT", "Egress", "to", "-d"),
    ):
        bound = [policy for policy in mine if direction in policy["spec"]["policyTypes"]]
        for policy in bound:
            for rule in policy["spec"].get(direction.lower(), []):
                for peer in _addresses(rule.get(peers_key), policy["metadata"]["namespace"], pods):
                    for port in _ports(rule.get("ports"), pod, direction):
                        where = f"{flag} {peer} " if peer else ""
                        lines.append(f"-A {chain} {where}{port}-j ACCEPT")
        if bound:
            lines.append(f"-A {chain} -j DROP")
    return "\n".join([*lines, "COMMIT", ""])


def _addresses(peers: Any, namespace: str, pods: Sequence[PodAddress]) -> list[str]:
    """Return the addresses of the peers; without peers, any address ("")."""
    if not peers:
        return [""]
    found: list[str] = []
    for peer in peers:
        if "ipBlock" in peer:
            found.append(peer["ipBlock"]["cidr"])
            continue
        for pod in pods:
            if "namespaceSelector" in peer:
                near = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
            else:
                near = pod.namespace == namespace
            if near and selects(peer.get("podSelector", {}), pod.labels):
                found.append(pod.ip)
    return found


def _ports(ports: Any, pod: PodAddress, direction: str) -> list[str]:
    if not ports:
        return [""]
    found = []
    for one in ports:
        number = one["port"]
        if isinstance(number, str):
            if direction == "Egress":
                raise NotImplementedError(f"a named port {number} of another pod in an egress rule")
            number = pod.ports[number]
        found.append(f"-p {one.get('protocol', 'TCP').lower()} --dport {number} ")
    return found


def backends(service: Document, pods: Sequence[PodAddress]) -> list[PodAddress]:
    """Return the pods that a Service selects, ready or not."""
    selector = service["spec"].get("selector")
    return [
        pod
        for pod in pods
        if selector
        and pod.namespace == service["metadata"]["namespace"]
        and selects({"matchLabels": selector}, pod.labels)
    ]


def target_port(pod: PodAddress, port: Document) -> int:
    """Return the target port number of a Service port in one pod."""
    target = port.get("targetPort", port["port"])
    return pod.ports[target] if isinstance(target, str) else int(target)


def nat_rules(services: Mapping[str, Document], pods: Sequence[PodAddress], extra: Sequence[str] = ()) -> str:
    """Return the iptables-restore nat table: each connection to a Service goes to a random ready pod.

    ``services`` maps cluster addresses to Services. Connections to a Service without ready pods are refused,
    as by kube-proxy.
    """
    lines = ["*nat", ":OUTPUT ACCEPT [0:0]", *extra]
    for address, service in services.items():
        found = [pod for pod in backends(service, pods) if pod.ready and not pod.terminating]
        for port in service["spec"]["ports"]:
            for number, pod in enumerate(found):
                left = len(found) - number
                dice = f"-m statistic --mode random --probability {1 / left:.6f} " if left > 1 else ""
                lines.append(
                    f"-A OUTPUT -d {address} -p tcp --dport {port['port']} {dice}"
                    f"-j DNAT --to-destination {pod.ip}:{target_port(pod, port)}"
                )
    return "\n".join([*lines, "COMMIT", ""])


def names(services: Mapping[str, Document], pods: Sequence[PodAddress], namespace: str) -> str:
    """Return the lines of /etc/hosts: every Service by its short and long names, headless ones by their pods.

    Unlike a name server, a hosts file does not follow pods that start later: a headless Service without pods
    gets the address of the Service with the same selector.
    """
    lines = ["127.0.0.1 localhost"]
    for address, service in services.items():
        own, home = service["metadata"]["name"], service["metadata"]["namespace"]
        known = [f"{own}.{home}", f"{own}.{home}.svc", f"{own}.{home}.svc.{DOMAIN}"]
        if home == namespace:
            known.insert(0, own)
        headless = service["spec"].get("clusterIP") == "None"
        addresses = [address]
        if headless:
            not_ready_too = service["spec"].get("publishNotReadyAddresses", False)
            addresses = [pod.ip for pod in backends(service, pods) if pod.ready or not_ready_too]
            addresses = addresses or _address_of_twin(service, services)
        lines += [f"{one} {' '.join(known)}" for one in addresses]
    return "\n".join([*lines, ""])


def _address_of_twin(headless: Document, services: Mapping[str, Document]) -> list[str]:
    """Return the address of the non-headless Service with the same selector, "" if there is none."""
    spec, home = headless["spec"], headless["metadata"]["namespace"]
    return [
        address
        for address, other in services.items()
        if other["metadata"]["namespace"] == home
        and other["spec"].get("selector") == spec.get("selector")
        and other["spec"].get("clusterIP") != "None"
    ][:1]


def endpoint_slice(service: Document, pods: Sequence[PodAddress], version: int) -> dict[str, Any]:
    """Return the EndpointSlice that Kubernetes would keep for a Service."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    found = backends(service, pods)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1", "namespace": namespace, "resourceVersion": str(version),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [pod.ip],
                "conditions": {
                    "ready": pod.ready and not pod.terminating,
                    "serving": pod.ready,
                    "terminating": pod.terminating,
                },
                "targetRef": {"kind": "Pod", "name": pod.name, "namespace": pod.namespace},
            }
            for pod in found
        ],
        "ports": [{"name": port.get("name", ""), "port": port["port"]} for port in service["spec"]["ports"]],
    }  # fmt: skip
