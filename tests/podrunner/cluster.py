"""The cluster: applied manifests, their pods, and the network rules between the pods."""

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from podrunner import kernel
from podrunner.api_server import ApiServer
from podrunner.images import Image
from podrunner.network import PodAddress, endpoint_slice, filter_rules, names, nat_rules
from podrunner.pod import Pod, PodFailed, Surroundings

Document = Mapping[str, Any]
NODE_IP = "10.244.0.1"
API_IP = "10.96.0.1"


class Cluster:
    """Made by :func:`cluster`. ``images`` returns the image for a name in a manifest."""

    def __init__(self, folder: Path, images: Callable[[str], Image]) -> None:
        kernel.require()
        self._folder = folder
        self._images = images
        self._lock = threading.RLock()
        self._numbers = itertools.count(2)
        self.pods: list[Pod] = []
        self.services: dict[str, Document] = {}
        self.policies: list[Document] = []
        self.objects: dict[str, dict[tuple[str, str], Document]] = {}
        self.clients: dict[str, tuple[kernel.Holder, PodAddress]] = {}
        self._roles: list[Document] = []
        self._closing = False
        self.node = kernel.Holder()
        self.node.run("ip", "-batch", "-", text=(
            "link set lo up\nlink add br0 type bridge\n"
            f"addr add {NODE_IP}/16 dev br0\nlink set br0 up\n"
        ))  # fmt: skip
        self.api = self.node.call(lambda: self._api_server())

    def _api_server(self) -> ApiServer:
        return ApiServer(NODE_IP, self._slices, self._allowed, self._config_maps, self._put)

    # -- manifests -------------------------------------------------------------------------------

    def secret(self, namespace: str, name: str, **data: str) -> None:
        """Create or replace a Secret; pods that mount it see the new content."""
        self._put(namespace, {"kind": "Secret", "metadata": {"name": name}, "data": data})

    def apply(self, *documents: Document) -> list[Pod]:
        """Apply manifests (with their namespaces) and start their pods; :meth:`run_pod` runs hooks.

        Pods start last, because a container's /etc/hosts contains only the Services that exist before it.
        """
        started = []
        for document in sorted(documents, key=lambda one: one["kind"] in ("Deployment", "StatefulSet")):
            metadata = document["metadata"]
            namespace, kind = metadata["namespace"], document["kind"]
            if "helm.sh/hook" in metadata.get("annotations", {}):
                continue
            if kind in ("ConfigMap", "Secret"):
                self._put(namespace, document)
            elif kind == "Service":
                self.services[f"10.96.1.{len(self.services) + 1}"] = document
            elif kind == "NetworkPolicy":
                self.policies.append(document)
            elif kind in ("Role", "RoleBinding"):
                self._roles.append(document)
            elif kind in ("Deployment", "StatefulSet"):
                for number in range(document["spec"].get("replicas", 1)):
                    started.append(self._pod_of(document, number))
        self._refresh()
        for pod in started:
            pod.start()
        return started

    def _put(self, namespace: str, document: Document) -> None:
        key = (document["kind"], document["metadata"]["name"])
        self.objects.setdefault(namespace, {})[key] = document
        for pod in self.pods:
            if pod.namespace == namespace:
                pod.volumes.refresh(*key)

    def delete_config_map(self, namespace: str, name: str) -> None:
        """Delete a ConfigMap; pods that mount it as optional see an empty folder."""
        del self.objects[namespace]["ConfigMap", name]
        for pod in self.pods:
            if pod.namespace == namespace:
                pod.volumes.refresh("ConfigMap", name)

    def _config_maps(self, namespace: str) -> Mapping[str, dict[str, Any]]:
        found = self.objects.get(namespace, {})
        return {name: dict(one) for (kind, name), one in found.items() if kind == "ConfigMap"}

    def _pod_of(self, document: Document, number: int) -> Pod:
        template = document["spec"]["template"]
        spec = dict(template["spec"])
        claims = document["spec"].get("volumeClaimTemplates", [])
        spec["volumes"] = [
            *spec.get("volumes", []),
            *({"name": one["metadata"]["name"], "persistentVolumeClaim": {}} for one in claims),
        ]
        name = f"{document['metadata']['name']}-{number}"
        return self._pod(name, document["metadata"]["namespace"], template["metadata"]["labels"], spec)

    def _pod(self, name: str, namespace: str, labels: Mapping[str, str], spec: Document) -> Pod:
        number = next(self._numbers)
        account = spec.get("serviceAccountName", "default")
        token = None
        if spec.get("automountServiceAccountToken", True):
            token = {"token": secrets.token_hex(16), "ca.crt": self.api.certificate, "namespace": namespace}
            self.api.accounts[token["token"]] = f"{namespace}/{account}"
        folder = self._folder / f"{name}-{number}"
        folder.mkdir(parents=True)
        around = Surroundings(
            images=self._images,
            objects=self.objects.setdefault(namespace, {}),
            hosts=lambda: names(self.services, self._addresses(), namespace),
            service_env={"KUBERNETES_SERVICE_HOST": API_IP, "KUBERNETES_SERVICE_PORT": "443"},
            token=token,
            node_network=self.node.network,
            changed=self._refresh,
        )
        pod = Pod(name, namespace, labels, spec, f"10.244.0.{number}", folder, around)
        self._connect(pod.holder, pod.ip, number)
        with self._lock:
            self.pods.append(pod)
        return pod

    def _connect(self, holder: kernel.Holder, ip: str, number: int) -> None:
        self.node.run("ip", "-batch", "-", text=(
            f"link add veth{number} type veth peer name eth0 netns {holder.pid}\n"
            f"link set veth{number} master br0 up\n"
        ))  # fmt: skip
        holder.run("ip", "-batch", "-", text=(
            f"link set lo up\naddr add {ip}/16 dev eth0\nlink set eth0 up\nroute add default via {NODE_IP}\n"
        ))  # fmt: skip

    # -- pods and clients ----------------------------------------------------------------

    def client(self, name: str, namespace: str, **labels: str) -> kernel.Holder:
        """Return a network namespace for a client; network policies treat it as a pod with ``labels``."""
        key = f"{namespace}/{name}"
        if key not in self.clients:
            number = next(self._numbers)
            holder = kernel.Holder()
            self._connect(holder, f"10.244.0.{number}", number)
            self.clients[key] = (holder, PodAddress(name, namespace, labels, f"10.244.0.{number}"))
            self._refresh()
        return self.clients[key][0]

    def address(self, namespace: str, service: str) -> str:
        """Return a Service's cluster address."""
        (found,) = (
            address
            for address, one in self.services.items()
            if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, service)
        )
        return found

    def run_pod(self, namespace: str, document: Document, seconds: float = 60.0) -> tuple[int | None, str]:
        """Run a pod (for example of helm test) until it exits; return its exit status and output."""
        metadata = document["metadata"]
        pod = self._pod(metadata["name"], namespace, metadata.get("labels", {}), document["spec"])
        pod.start()
        self._refresh()
        pod.ended.wait(seconds)
        said = "\n".join([*(pod.log(one.name) for one in pod.mains), *pod.events])
        with self._lock:
            self.pods.remove(pod)
        pod.close()
        self._refresh()
        return pod.exit_status, said

    def wait_ready(self, pods: list[Pod], seconds: float) -> None:
        """Wait until every pod is ready.

        Raises:
            PodFailed: a pod exited or is not ready in time; the message has the end of its logs.
        """
        deadline = time.monotonic() + seconds
        while not all(pod.ready for pod in pods):
            for pod in pods:
                if pod.ended.is_set() or pod.events:
                    raise PodFailed("\n".join(pod.events) or f"{pod.name} ended:\n{pod._logs()}")
                if time.monotonic() > deadline and not pod.ready:
                    raise PodFailed(f"{pod.name} is not ready after {seconds} s:\n{pod._logs()}")
            time.sleep(0.05)

    def events(self) -> list[str]:
        """Return the faults of all pods so far."""
        return [event for pod in self.pods for event in pod.events]

    # -- rules -----------------------------------------------------------------------------------

    def _addresses(self) -> list[PodAddress]:
        with self._lock:
            found = [
                PodAddress(pod.name, pod.namespace, pod.labels, pod.ip, pod.ports, pod.ready, pod.terminating)
                for pod in self.pods
                if not pod.ended.is_set()
            ]
            return [*found, *(address for _, address in self.clients.values())]

    def _refresh(self) -> None:
        """Update the rules of every namespace and notify the watches."""
        with self._lock:
            if self._closing:
                return
            pods = self._addresses()
            holders = {pod.ip: pod.holder for pod in self.pods if not pod.ended.is_set()}
            holders |= {address.ip: holder for holder, address in self.clients.values()}
            to_api = f"-A OUTPUT -d {API_IP} -p tcp --dport 443 -j DNAT --to-destination {NODE_IP}:6443"
            by_address = {
                address: one
                for address, one in self.services.items()
                if one["spec"].get("clusterIP") != "None"
            }
            nat = nat_rules(by_address, pods, [to_api])
            for pod in pods:
                rules = filter_rules(pod, self.policies, pods, NODE_IP)
                holders[pod.ip].run("iptables-restore", text=nat + rules)
        self.api.changed()

    def _slices(self, namespace: str, service: str) -> list[dict[str, Any]]:
        return [
            endpoint_slice(one, self._addresses(), self.api.version)
            for one in self.services.values()
            if one["metadata"]["namespace"] == namespace and one["metadata"]["name"] == service
        ]

    def _allowed(self, account: str, verb: str, resource: str, namespace: str, name: str) -> bool:
        roles = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): one["rules"]
            for one in self._roles
            if one["kind"] == "Role"
        }
        group = "" if resource == "configmaps" else "discovery.k8s.io"
        for binding in self._roles:
            if binding["kind"] != "RoleBinding" or binding["metadata"]["namespace"] != namespace:
                continue
            subjects = [f"{one['namespace']}/{one['name']}" for one in binding["subjects"]]
            for rule in roles[namespace, binding["roleRef"]["name"]]:
                named = name in rule.get("resourceNames", [name])
                what = group in rule["apiGroups"] and resource in rule["resources"] and named
                if account in subjects and what and verb in rule["verbs"]:
                    return True
        return False

    def close(self) -> None:
        """Stop everything that runs."""
        with self._lock:
            self._closing = True
        self.api.close()
        for pod in self.pods:
            pod.close()
        for holder, _ in self.clients.values():
            holder.close()
        self.node.close()


@contextmanager
def cluster(folder: Path, images: Callable[[str], Image]) -> Iterator[Cluster]:
    """Yield a cluster until the block ends; always remove everything it created."""
    made = Cluster(folder, images)
    try:
        yield made
    finally:
        made.close()
