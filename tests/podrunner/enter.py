"""Runs in a container's new mount (and perhaps process) namespace: builds its root, changes user, runs its
command.

Uses only the standard library, because the machine's Python runs it without our packages.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
DEVICES = ("null", "zero", "full", "random", "urandom")
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    done = LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode())
    if done:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target} ({kind or 'bind'}): {os.strerror(number)}")


def bind(source: str, target: str, read_only: bool) -> None:
    """Bind-mount ``source`` (a folder or a file) at ``target``, which is created."""
    place = Path(target)
    if os.path.isdir(source):
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_REC)


def build_root(spec: dict[str, Any]) -> None:
    """Assemble the root file system at ``spec["root"]``."""
    root = spec["root"]
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("root", root, "tmpfs", MS_NOSUID, "mode=755")
    for folder in ("etc", "dev", "proc", "run", "tmp", "var", "root"):
        Path(root, folder).mkdir()
    os.symlink("/run", f"{root}/var/run")
    for name, text in spec["etc"].items():
        Path(root, "etc", name).write_text(text)
    for one in spec["links"]:
        os.symlink(one["to"], root + one["path"])
    for device in DEVICES:
        bind(f"/dev/{device}", f"{root}/dev/{device}", read_only=False)
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")
    Path(root, "dev/shm").mkdir()  # every container runtime gives a /dev/shm of this size
    mount("shm", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m")
    for one in spec["mounts"]:
        bind(one["source"], root + one["target"], one["read_only"])
    if spec["proc"]:
        mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV)
    Path(root + spec["cwd"]).mkdir(parents=True, exist_ok=True)
    if spec["read_only"]:
        mount("none", root, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def become(spec: dict[str, Any]) -> None:
    """Enter the root as the container's user, with no_new_privs, and run the command."""
    os.chroot(spec["root"])
    os.chdir(spec["cwd"])
    if spec["drop"]:
        for capability in range(64):
            LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups(spec["groups"])
    os.setgid(spec["gid"])
    os.setuid(spec["uid"])
    if spec["drop"]:
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Set after the change of user, which clears it: the process ends with the test.
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ.clear()
    os.environ.update(spec["env"])
    try:
        os.execvpe(spec["argv"][0], spec["argv"], os.environ)
    except OSError as error:
        sys.exit(f"{spec['argv'][0]}: {error.strerror}")


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    os.umask(0o022)
    if given["hostname"]:
        LIBC.sethostname(given["hostname"].encode(), len(given["hostname"]))
    build_root(given)
    become(given)
