"""More router and edge replicas in front of a running stack's engines; tests start, kill and roll them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.chaos.world import POOL, World, eventually
from harness.ports import free_port
from harness.processes import answers
from harness.servers.edges import Edge, running_edge
from harness.servers.router_fleet import RouterPart
from harness.stacks.local import ROOT

GRACE_SECONDS = 30.0


class Addresses(NamedTuple):
    """Addresses of routers, engines, agents and Redis."""

    host: str = "127.0.0.1"
    seen_at: str = "127.0.0.1"


LOOPBACK = Addresses()


class Router(RouterPart):
    """A router replica with the stack's configuration on a separate port."""

    host = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def roll(self) -> int:
        """Stop it as a rollout does, wait until it exits, start it again; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(GRACE_SECONDS)
        self.end()
        self.start()
        eventually(lambda: self.usable(POOL) >= 1, "the new replica has a usable backend", 30)
        return code


@contextlib.contextmanager
def more_routers(
    world: World,
    folder: Path,
    count: int,
    *,
    wrapper: Sequence[str] = (),
    log: Path | None = None,
    wait_usable: int = 2,
    addresses: Addresses = LOOPBACK,
    **sections: Any,
) -> Iterator[list[Router]]:
    """Run ``count`` routers with the stack's configuration, scraped by its Prometheus.

    ``sections`` replace the configuration's own; ``wrapper`` goes before the command (``env X=y``, ``unshare``).
    """
    host = addresses.host
    text = (world.stack.run_dir / "router" / "router.yaml").read_text()
    base = yaml.safe_load(text.replace("127.0.0.1", addresses.seen_at))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        routers = []
        for number in range(count):
            port = free_port()
            path = folder / f"router-{number}.yaml"
            server = {**base["server"], "host": host, "port": port}
            path.write_text(yaml.safe_dump({**base, "server": server, **sections}))
            command = [
                *wrapper,
                str(ROOT / ".venv" / "bin" / "router-service"),
                "serve",
                "--config",
                str(path),
            ]
            ready = answers(f"http://{host}:{port}/readyz")
            router = Router(command, log or folder / f"router-{number}.jsonl", ready, port)
            router.host = host
            router.start()
            stack.callback(router.end)
            routers.append(router)
        eventually(
            lambda: all(router.usable(POOL) >= wait_usable for router in routers),
            "they use the engines",
            30,
        )
        world.rules_at_scale({"router-service": [f"{host}:{router.port}" for router in routers]})
        stack.callback(world.rules_at_scale)
        yield routers


@contextlib.contextmanager
def more_edge(
    world: World,
    folder: Path,
    router_port: int,
    port: int | None = None,
    router_host: str = "127.0.0.1",
    telemetry_port: int | None = None,
) -> Iterator[Edge]:
    """Run one more edge with the stack's keys in front of the port of a router or load balancer."""
    key = world.stack.client_environment()["OPENAI_API_KEY_LOAD"]
    settings: dict[str, Any] = {"router": {"host": router_host, "port": router_port}}
    if telemetry_port is not None:
        settings["telemetry"] = {"port": telemetry_port}
    with running_edge(folder, router_port, settings, keys={"load": [key]}, port=port) as edge:
        yield edge


def only_child(pid: int) -> int:
    """Return the process that the wrapper became, or the wrapper's only child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def killed(router: Router) -> int:
    """Send SIGKILL without a restart; return the process id."""
    pid = router.pid
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while router.process is not None and router.process.poll() is None:
        assert time.monotonic() < deadline, "it is gone"
        time.sleep(0.02)
    return pid
