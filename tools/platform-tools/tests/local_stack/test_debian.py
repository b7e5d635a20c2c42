"""Installing Debian packages starts no service and keeps the machine's own policy."""

from pathlib import Path

import pytest

from platform_tools.local_stack.debian import POLICY_MARK, POLICY_TEXT, no_service_starts, packages_of

LISTING = """\
# comment
[up]
redis-server   # state
prometheus
[test]
graphviz
"""


def test_packages_come_from_the_sections_asked_for() -> None:
    assert packages_of(LISTING, ["up"]) == ["redis-server", "prometheus"]
    assert packages_of(LISTING, ["up", "test"]) == ["redis-server", "prometheus", "graphviz"]
    assert packages_of(LISTING, []) == []


def test_a_package_is_left_out_where_its_program_is_on_path() -> None:
    assert packages_of("[test]\nshell:sh\nnone:no-such-program-here\n", ["test"]) == ["none"]


def test_service_starts_are_forbidden_only_while_packages_install(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with no_service_starts(policy):
        assert "exit 101" in policy.read_text()
        assert policy.stat().st_mode & 0o111
    assert not policy.exists()


def test_an_interruption_removes_the_policy_too(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with pytest.raises(KeyboardInterrupt), no_service_starts(policy):
        raise KeyboardInterrupt
    assert not policy.exists()


def test_a_policy_of_the_machines_owner_is_never_touched(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 104\n")
    with no_service_starts(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 104\n"
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_a_policy_that_a_killed_run_left_behind_is_cleaned_up(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text(POLICY_TEXT)
    assert POLICY_MARK in POLICY_TEXT
    with no_service_starts(policy):
        assert policy.exists()
    assert not policy.exists()
