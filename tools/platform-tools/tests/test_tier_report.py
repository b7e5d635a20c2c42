"""The summary of `make test` never reports a skipped test as passed."""

from pathlib import Path

from platform_tools.tier_report import (
    SECOND_LOOKS,
    Tier,
    exit_code,
    may_be_looked_at_again,
    merge_second_look,
    read_junit,
    summary,
)

JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="one"/>
<testcase classname="a" name="two"><failure message="no"/></testcase>
<testcase classname="a" name="three"><error message="no"/></testcase>
<testcase classname="a" name="four"><skipped message="terraform: not here"/></testcase>
</testsuite></testsuites>"""


def test_failures_errors_and_skips_are_counted_apart(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(JUNIT)
    tier = read_junit(Tier("contract"), report, 1)
    assert (tier.passed, tier.failed, tier.skipped) == (1, 2, 1)
    assert tier.failures == ["a::two", "a::three"]


def test_a_run_without_a_report_is_a_failure(tmp_path: Path) -> None:
    assert read_junit(Tier("contract"), tmp_path / "missing.xml", 0).failed == 1


def test_a_crash_of_pytest_after_green_tests_is_a_failure(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuite><testcase classname="a" name="one"/></testsuite>')
    assert read_junit(Tier("contract"), report, 3).failed == 1
    assert read_junit(Tier("contract"), report, 0).failed == 0


def test_the_summary_names_what_was_not_run_and_ends_with_the_sum() -> None:
    ran = Tier("contract", passed=3, skipped=1)
    ran.skip_reasons["terraform: not here"] = 1
    lines = summary([ran, Tier("platform", not_run="no CPU torch")], ["2 long forms: they run with FULL=1"])
    assert lines[-1] == "3 passed, 0 failed, 1 skipped"
    text = "\n".join(lines)
    for reason in ("terraform: not here", "no CPU torch", "FULL=1"):
        assert reason in text


def test_the_exit_code_is_zero_only_when_something_ran_and_nothing_failed() -> None:
    good, missing = Tier("contract", passed=1), Tier("platform", not_run="why")
    assert exit_code([good], every_tier_must_run=True) == 0
    assert exit_code([good, missing], every_tier_must_run=False) == 0
    assert exit_code([good, missing], every_tier_must_run=True) == 1
    assert exit_code([good, Tier("service", failed=1)], every_tier_must_run=False) == 1
    assert exit_code([missing], every_tier_must_run=False) == 1
    assert exit_code([Tier("contract")], every_tier_must_run=False) == 1


def test_a_test_that_passes_alone_is_counted_as_passed_and_named_as_unstable() -> None:
    tier = Tier("service", passed=5, failed=2, failures=["a::two", "a::three"])
    assert may_be_looked_at_again(tier)
    merge_second_look(tier, Tier("service", passed=1, failed=1, failures=["a::three"]))
    assert (tier.passed, tier.failed) == (6, 1)
    assert (tier.unstable, tier.failures) == (["a::two"], ["a::three"])
    text = "\n".join(summary([tier], []))
    assert "unstable" in text
    assert "service: a::two" in text


def test_a_second_look_that_did_not_run_the_same_tests_changes_nothing() -> None:
    for again in (
        Tier("service", passed=2, crashed=True),
        Tier("service", passed=1),
        Tier("service", passed=1, failed=1, failures=["a::another"]),
    ):
        tier = Tier("service", passed=5, failed=2, failures=["a::two", "a::three"])
        merge_second_look(tier, again)
        assert (tier.passed, tier.failed, tier.unstable) == (5, 2, [])


def test_a_break_or_a_crash_is_not_looked_at_again() -> None:
    assert not may_be_looked_at_again(Tier("service", passed=5))
    assert not may_be_looked_at_again(Tier("service", failed=SECOND_LOOKS + 1))
    assert not may_be_looked_at_again(Tier("service", failed=1, crashed=True))
