"""Debian packages: finds missing ones and installs them without starting their services."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_MARK = "# local-stack: no service starts while make installs packages"
POLICY_TEXT = f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n"
INTERRUPTED_SECONDS = 120.0  # On SIGINT, apt first finishes its current dpkg step.


def packages_of(listing: str, sections: Sequence[str]) -> list[str]:
    """Return the packages named under ``[section]`` headings of a listing; `#` begins a comment.

    A line ``PACKAGE:PROGRAM`` counts only where PROGRAM is not on PATH.
    """
    wanted, names = False, []
    for raw in listing.splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            wanted = line[1:-1] in sections
        elif line and wanted:
            package, _, program = line.partition(":")
            if not program or shutil.which(program) is None:
                names.append(package)
    return names


def missing_packages(listing: Path, sections: Sequence[str]) -> list[str]:
    """Return those of the listed packages that dpkg does not have installed."""
    names = packages_of(listing.read_text(), sections)
    if not names:
        return []
    if shutil.which("dpkg-query") is None:
        return names
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def install_packages(names: Sequence[str], log: Path) -> None:
    """Install packages with apt-get; afterwards none of their services runs or starts at boot.

    Raises:
        CalledProcessError: apt-get failed; its output is in ``log``.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-q", "-y", "-o", "Dpkg::Lock::Timeout=120", "-o", "Dpkg::Options::=--force-confold"]
    before = enabled_units()
    with no_service_starts(POLICY), log.open("ab") as output:

        def run(*command: str) -> None:
            # In a new session: Ctrl-C reaches apt once, from here, and never interrupts dpkg.
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            try:
                code = child.wait()
            except BaseException:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(INTERRUPTED_SECONDS)
                raise
            if code:
                raise subprocess.CalledProcessError(code, command)

        if subprocess.run(["dpkg", "--audit"], capture_output=True, check=False).stdout:
            run("dpkg", "--configure", "-a", "--force-confold")
        run("apt-get", "update", "-q")
        run("apt-get", "install", "--no-install-recommends", *options, *names)
        for unit in sorted(enabled_units() - before):
            run("systemctl", "disable", "--now", unit) if _systemd_runs() else run(
                "systemctl", "disable", unit
            )


def enabled_units() -> set[str]:
    """Return the systemd services that start at boot (none without systemctl)."""
    if shutil.which("systemctl") is None:
        return set()
    done = subprocess.run(
        ["systemctl", "list-unit-files", "--type=service", "--state=enabled", "--no-legend", "--no-pager"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


def _systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir()


@contextlib.contextmanager
def no_service_starts(policy: Path) -> Iterator[None]:
    """Forbid package scripts to start services while the block runs, by Debian's policy-rc.d.

    An existing policy of another program stays in force. A policy left by an interrupted run of this program
    is removed.
    """
    try:
        descriptor = os.open(policy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        ours = POLICY_MARK in policy.read_text(errors="replace")
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(POLICY_TEXT)
        policy.chmod(0o755)
        ours = True
    try:
        yield
    finally:
        if ours:
            policy.unlink(missing_ok=True)
