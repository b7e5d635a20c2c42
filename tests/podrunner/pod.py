"""One pod as the kubelet runs it: init containers, sidecars, probes, stop hooks, the grace period."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podrunner import enter
from podrunner.images import Image, Mount, machine_python
from podrunner.kernel import Holder, children, inside, spawn
from podrunner.network_probes import passes
from podrunner.volumes import Volumes

Document = Mapping[str, Any]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


class PodFailed(AssertionError):
    """A container did not behave as its manifest requires. The message contains its name and the end of its log."""


@dataclass
class Surroundings:
    """What the cluster provides to a pod."""

    images: Callable[[str], Image]
    objects: Mapping[tuple[str, str], Document]
    hosts: Callable[[], str]
    service_env: Mapping[str, str]
    token: Mapping[str, str] | None
    node_network: str
    changed: Callable[[], None]


@dataclass
class Container:
    """A container of the pod and its observed state."""

    spec: Document
    sidecar: bool = False
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0
    started: bool = False
    ready: bool = False
    command: list[str] = field(default_factory=list)
    stopped_in_seconds: float | None = None

    @property
    def name(self) -> str:
        return str(self.spec["name"])


class Pod:
    """Runs ``spec`` under ``name`` at ``ip``. ``events`` lists its faults."""

    def __init__(
        self, name: str, namespace: str, labels: Mapping[str, str], spec: Document, ip: str, folder: Path,
        around: Surroundings,
    ) -> None:  # fmt: skip
        self.name, self.namespace, self.labels, self.ip, self.spec = name, namespace, labels, ip, spec
        self.folder = folder
        self.events: list[str] = []
        self.terminating = False
        self.ended = threading.Event()
        self.exit_status: int | None = None
        self.killed: list[str] = []
        self.hooks: dict[str, int] = {}
        self.stop_seconds = 0.0
        self._around = around
        self._stop = threading.Event()
        self.inits = [
            Container(one, one.get("restartPolicy") == "Always") for one in spec.get("initContainers", [])
        ]
        self.mains = [Container(one) for one in spec["containers"]]
        self.holder = Holder(processes=bool(spec.get("shareProcessNamespace")))
        self.volumes = Volumes(spec, folder, around.objects)
        self._thread = threading.Thread(target=self._live, name=f"pod-{name}", daemon=True)

    # -- interface -----------------------------------------------------------------------

    @property
    def containers(self) -> list[Container]:
        """Return sidecars and main containers."""
        return [*(one for one in self.inits if one.sidecar), *self.mains]

    @property
    def ports(self) -> dict[str, int]:
        """Named ports."""
        return {
            port["name"]: port["containerPort"]
            for one in self.containers
            for port in one.spec.get("ports", [])
            if "name" in port
        }

    @property
    def ready(self) -> bool:
        """Return whether Services may send to it."""
        return all(one.ready for one in self.containers) and not self.ended.is_set()

    def start(self) -> None:
        self._thread.start()

    def terminate(self) -> None:
        """Ask it to stop; ``ended`` is set once it has stopped."""
        self.terminating = True
        self._around.changed()
        self._stop.set()

    def close(self) -> None:
        """Kill it at once."""
        self._stop.set()
        for one in [*self.inits, *self.mains]:
            if one.process and one.process.poll() is None:
                one.process.kill()
        self.holder.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(10)

    def log(self, container: str, lines: int = 25) -> str:
        """Return the end of a container's output."""
        path = self.folder / f"{container}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def execute(self, container: Container, command: list[str], seconds: float = 60.0) -> tuple[int, str]:
        """Run a command in a container as its user, as `kubectl exec` and exec probes do."""
        uid, gid, groups = self._user(container, self._image(container))
        words = [
            "nsenter", f"--target={container.pid}", "--mount", "--net", "--pid", "--uts", "--root", "--wd",
            "setpriv", f"--reuid={uid}", f"--regid={gid}", f"--groups={','.join(map(str, groups)) or gid}",
            "--no-new-privs", "--bounding-set=-all", *command,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                words, env=self._environment(container, self._image(container)), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124, f"not done after {seconds} s"
        return done.returncode, done.stdout + done.stderr

    # -- lifecycle --------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            self._begin()
            while not self._stop.is_set() and any(
                one.process and one.process.poll() is None for one in self.mains
            ):
                time.sleep(0.05)
            statuses = [one.process.poll() for one in self.mains if one.process]
            if not self._stop.is_set():
                self.exit_status = next((code for code in statuses if code), 0)
                if self.spec.get("restartPolicy") != "Never":
                    raise PodFailed(f"{self.mains[0].name} ended with {statuses} by itself:\n{self._logs()}")
            self._end()
        except AssertionError as error:
            self.events.append(f"{self.name}: {error}")
        except Exception as error:
            self.events.append(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self.ended.set()
            self._around.changed()

    def _begin(self) -> None:
        for one in self.inits:
            self._run(one)
            if one.sidecar:
                self._await_start(one)
                continue
            assert one.process is not None
            while one.process.poll() is None:
                if self._stop.is_set():
                    return
                time.sleep(0.02)
            if one.process.returncode:
                raise PodFailed(
                    f"init container {one.name} ended with {one.process.returncode}:\n{self.log(one.name)}"
                )
        for one in self.mains:
            self._run(one)
        for one in self.mains:
            threading.Thread(target=self._watch, args=(one,), daemon=True).start()

    def _await_start(self, one: Container) -> None:
        threading.Thread(target=self._watch, args=(one,), daemon=True).start()
        while not one.started and not self._stop.is_set():
            if one.process and one.process.poll() is not None:
                raise PodFailed(
                    f"sidecar {one.name} ended with {one.process.returncode}:\n{self.log(one.name)}"
                )
            time.sleep(0.02)

    def _watch(self, one: Container) -> None:
        try:
            with inside(self._around.node_network):
                self._probe_forever(one)
        except Exception as error:
            self.events.append(f"{self.name}/{one.name}: probing failed: {error!r}")

    def _probe_forever(self, one: Container) -> None:
        """Run the startup probe first, then readiness and liveness in parallel, each at its own interval."""
        due = {
            kind: time.monotonic() + one.spec.get(kind, {}).get("initialDelaySeconds", 0) for kind in PROBES
        }
        failures = dict.fromkeys(PROBES, 0)
        one.started = "startupProbe" not in one.spec
        if one.started and "readinessProbe" not in one.spec:
            one.ready = True
            self._around.changed()
        while not self.ended.is_set() and one.process is not None and one.process.poll() is None:
            for kind in PROBES:
                probe = one.spec.get(kind)
                if not probe or (kind == "startupProbe") == one.started or time.monotonic() < due[kind]:
                    continue
                due[kind] = time.monotonic() + probe.get("periodSeconds", 10)
                failures[kind] = 0 if self._passes(one, probe) else failures[kind] + 1
                failed = failures[kind] >= probe.get("failureThreshold", 3)
                if kind == "startupProbe" and not failures[kind]:
                    one.started = True
                    failures = dict.fromkeys(PROBES, 0)
                    if "readinessProbe" not in one.spec:
                        self._set_ready(one, True)
                elif kind == "readinessProbe" and (failed or not failures[kind]):
                    self._set_ready(one, not failed)
                elif failed and kind != "readinessProbe" and not self._stop.is_set():
                    self.events.append(f"{self.name}/{one.name}: the {kind} failed {failures[kind]} times")
                    failures[kind] = 0
            time.sleep(0.02)

    def _set_ready(self, one: Container, ready: bool) -> None:
        if one.ready != ready:
            one.ready = ready
            self._around.changed()

    def _passes(self, one: Container, probe: Document) -> bool:
        seconds = probe.get("timeoutSeconds", 1) * 5  # This machine is slower than a node.
        if "exec" in probe:
            return self.execute(one, probe["exec"]["command"], seconds)[0] == 0
        return passes(probe, self.ip, self.ports, seconds)

    def _end(self) -> None:
        """Run the stop hooks, send SIGTERM to the containers, then to the sidecars in reverse order; SIGKILL
        after the grace period.
        """
        began = time.monotonic()
        deadline = began + self.spec.get("terminationGracePeriodSeconds", 30)
        threads = [
            threading.Thread(target=self._end_one, args=(one, began, deadline), daemon=True)
            for one in self.mains
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in reversed([one for one in self.inits if one.sidecar]):
            self._end_one(one, began, deadline)
        self.stop_seconds = time.monotonic() - began

    def _end_one(self, one: Container, began: float, deadline: float) -> None:
        if one.process is None:
            return
        hook = one.spec.get("lifecycle", {}).get("preStop", {})
        if one.process.poll() is None and "exec" in hook:
            left = max(1.0, deadline - time.monotonic())
            status, said = self.execute(one, hook["exec"]["command"], left)
            self.hooks[one.name] = status
            if status:
                self.events.append(
                    f"{self.name}/{one.name}: the stop hook ended with {status}: {said[-500:]}"
                )
        elif one.process.poll() is None and "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
            self.hooks[one.name] = 0
        elif hook and not hook.keys() & {"exec", "sleep"}:
            raise NotImplementedError(f"stop hook {sorted(hook)}")
        if one.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGTERM)
            try:
                one.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.killed.append(one.name)
                self.events.append(f"{self.name}/{one.name}: killed after its grace period")
                one.process.kill()
                one.process.wait()
        one.stopped_in_seconds = time.monotonic() - began

    # -- one container ---------------------------------------------------------------------------

    def _image(self, one: Container) -> Image:
        return self._around.images(one.spec["image"])

    def _user(self, one: Container, image: Image) -> tuple[int, int, list[int]]:
        security = {**self.spec.get("securityContext", {}), **one.spec.get("securityContext", {})}
        uid = security.get("runAsUser", image.user[0])
        if security.get("runAsNonRoot") and uid == 0:
            raise PodFailed(f"{one.name}: runAsNonRoot and the image's user is root")
        groups = [security["fsGroup"]] if "fsGroup" in security else []
        return uid, security.get("runAsGroup", image.user[1]), groups

    def _environment(self, one: Container, image: Image) -> dict[str, str]:
        found = {"HOSTNAME": self.name, "HOME": "/", **image.env, **self._around.service_env}
        for entry in one.spec.get("env", []):
            found[entry["name"]] = self._value(entry, found)
        return found

    def _value(self, entry: Document, known: Mapping[str, str]) -> str:
        if "valueFrom" not in entry:
            return _expanded(str(entry.get("value", "")), known)
        source = entry["valueFrom"]
        if "fieldRef" in source:
            fields = {
                "metadata.name": self.name,
                "metadata.namespace": self.namespace,
                "status.podIP": self.ip,
            }
            return fields[source["fieldRef"]["fieldPath"]]
        reference = source["secretKeyRef"]
        return str(self._around.objects["Secret", reference["name"]]["data"][reference["key"]])

    def _run(self, one: Container) -> None:
        image = self._image(one)
        env = self._environment(one, image)
        command = one.spec.get("command") or [
            *image.entrypoint, *([] if "args" in one.spec else image.command)
        ]  # fmt: skip
        one.command = [_expanded(str(word), env) for word in [*command, *one.spec.get("args", [])]]
        uid, gid, groups = self._user(one, image)
        security = one.spec.get("securityContext", {})
        place = self.folder / one.name
        (place / "root").mkdir(parents=True, exist_ok=True)
        mounts = [*image.mounts, *self.volumes.mounts(one.spec)]
        if self._around.token is not None:
            token = place / "token"
            token.mkdir(exist_ok=True)
            for name, text in self._around.token.items():
                (token / name).write_text(text)
            mounts.append(Mount(str(token), TOKEN.replace("/var/run", "/run")))
        spec = {
            "root": str(place / "root"), "hostname": self.name, "cwd": image.cwd, "env": env,
            "argv": one.command, "uid": uid, "gid": gid, "groups": groups, "proc": True,
            "drop": "ALL" in security.get("capabilities", {}).get("drop", []),
            "read_only": bool(security.get("readOnlyRootFilesystem")),
            "links": [{"path": path, "to": to} for path, to in image.links],
            "mounts": [vars(m) for m in sorted(mounts, key=lambda m: m.target.count("/"))],
            "etc": {
                "passwd": f"root:x:0:0::/:/bin/sh\napp:x:{uid}:{gid}::/:/bin/sh\n",
                "group": f"root:x:0:\napp:x:{gid}:\n",
                "nsswitch.conf": "hosts: files\n", "hosts": self._around.hosts(), "resolv.conf": "",
            },
        }  # fmt: skip
        (place / "spec.json").write_text(json.dumps(spec))
        shared = bool(self.spec.get("shareProcessNamespace"))
        into = [f"--pid=/proc/{self.holder.pid}/ns/pid"] if shared else []
        own = [] if shared else ["--pid", "--fork", "--kill-child"]
        with (self.folder / f"{one.name}.log").open("ab") as output:
            one.process = spawn(
                ["nsenter", f"--net={self.holder.network}", *into, "unshare", "--mount", "--uts", *own,
                 str(machine_python()), "-I", enter.__file__, str(place / "spec.json")],
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        while one.process.poll() is None and not (found := children(one.process.pid)):
            time.sleep(0.005)
        one.pid = found[0] if one.process.poll() is None else 0

    def _logs(self) -> str:
        return "\n".join(f"--- {one.name}\n{self.log(one.name)}" for one in [*self.inits, *self.mains])


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """Kubernetes' $(NAME)."""
    return re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), text)
