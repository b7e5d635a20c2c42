"""Each image's own command and help, started without mounts as an unprivileged user on a read-only root."""

from pathlib import Path

from podrunner.images import Image, Mount, run_in_root

CPU_ENGINE = "inference-engine-cpu"
"""Gigabytes of vLLM and torch: built and run with FULL=1 only. It wants /tmp, where the chart mounts a folder."""
# Each image's output when started without mounts, and its help.
WITHOUT_FILES = {
    "router-service": (2, "/etc/router/router.yaml"),
    "edge-gateway": (2, "/etc/edge"),
    "rate-limit-service": (2, "/etc/rate-limit/settings.yaml: No such file or directory"),
    "inference-backend": (0, "load-weights"),
    "inference-engine": (0, "--served-model-name"),
    "engine-simulator": (0, "serve"),
    CPU_ENGINE: (0, "--served-model-name"),
    "load-generator": (0, "Generator"),
    "console": (0, "serve"),
}
HELP = {
    "router-service": ["--help"],
    "edge-gateway": ["--help"],
    "rate-limit-service": ["--help"],
    "inference-backend": ["--help"],
    "load-generator": ["--help"],
    "console": ["--help"],
    "engine-simulator": ["--help"],
    "inference-engine": ["/opt/agent/bin/backend-agent", "drain", "--help"],
    CPU_ENGINE: ["/opt/agent/bin/backend-agent", "drain", "--help"],
}


def started(image: Image, words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command as a container of the image would; return its exit status and output."""
    folder.mkdir()
    (folder / "root").mkdir()
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o777)
    scratch = [Mount(str(folder / "tmp"), "/tmp", read_only=False)] if image.name == CPU_ENGINE else []
    spec = {
        "root": str(folder / "root"), "hostname": image.name, "cwd": image.cwd,
        "env": {**image.env, "HOME": "/tmp" if scratch else "/"}, "argv": words, "uid": image.user[0], "gid": image.user[1],
        "groups": [], "proc": True, "drop": True, "read_only": True,
        "links": [{"path": path, "to": to} for path, to in image.links],
        "mounts": [vars(one) for one in sorted([*image.mounts, *scratch], key=lambda one: one.target.count("/"))],
        "etc": {"passwd": "app:x:65532:65532::/:/bin/sh\n", "hosts": "127.0.0.1 localhost\n"},
    }  # fmt: skip
    status = run_in_root(spec, folder, folder / "log")
    return status, (folder / "log").read_text()


def assert_its_commands_run(image: Image, name: str, folder: Path) -> None:
    """Check user, title, command and help of one of our images."""
    assert image.user == (65532, 65532)
    assert image.labels["org.opencontainers.image.title"] == name
    folder.chmod(0o755)
    expected, said = WITHOUT_FILES[name]
    status, output = started(image, [*image.entrypoint, *image.command], folder / "command")
    assert status == expected, output
    assert said in output
    assert "Traceback" not in output
    status, output = started(image, [*image.entrypoint, *HELP[name]], folder / "help")
    assert status == 0, output
    assert "usage" in output.lower()
