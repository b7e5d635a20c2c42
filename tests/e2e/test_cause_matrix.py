"""For each injected cause of a late first token, `why-ttft` names it first and verdict and alert agree.

The short form takes two causes once; `FULL=1` takes all, five times each, with sizes from a printed seed.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.stacks.cache_scenarios import CACHE_SCENARIOS
from harness.stacks.cause_matrix import Result, run, table, variables
from harness.stacks.cause_scenario import Scenario
from harness.stacks.cause_scenarios import SCENARIOS as LATE
from harness.stacks.local import Stack, running_stack
from harness.stacks.real_causes import REAL

SHORT = ("engine queue", "router event loop blocked")
TRIALS = 5
SCENARIOS = {**LATE, **CACHE_SCENARIOS}


def result_of(kind: type[Scenario], stack: Stack, trials: int, *, control: bool = True) -> Result:
    seed = random.randrange(1 << 30)
    print(f"{kind.name}: seed {seed}")
    found = run(stack, kind, seed, trials, control=control)
    told(found)
    return found


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack of the short form: small engines, so that a queue forms quickly."""
    folder = tmp_path_factory.mktemp("causes")
    with running_stack("sim", folder / "run", **variables(SCENARIOS["engine queue"], folder)) as stack:
        yield stack


def told(found: Result) -> None:
    for trial in found.trials:
        print(f"  {trial.injected}: measured {trial.measured_seconds * 1e3:+.0f} ms ({trial.proof})")
        print(f"    said: {trial.causes}")
    print(f"  {found.quiet}\n  {found.watched}\n{table([found])}")


def concluded(found: Result) -> None:
    """The expected verdict and alert appear within a minute."""
    scenario, seen = found.scenario, found.watched
    assert seen.verdict_seconds is not None, seen
    assert seen.verdict_seconds <= 60
    assert not scenario.alert or scenario.alert in seen.alerts, seen


def nothing_else_was_said(found: Result) -> None:
    """No other alert fires, and before the fault there is neither verdict nor alert.

    Long form only: on a machine short of CPU for seconds, an engine really becomes slower.
    """
    scenario, seen = found.scenario, found.watched
    # The burn-rate alerts fire for every cause that makes requests late.
    symptoms = (
        {"TtftBudgetBurningFast", "TtftBudgetBurningSlowly"} if found.trials[0].slow_share > 0.3 else set()
    )
    assert seen.alerts <= {scenario.alert} | scenario.also | symptoms, seen
    assert found.quiet.alerts == set()
    assert found.quiet.verdicts == {"none"}


@pytest.mark.service
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SHORT)
def test_a_cause_is_named_first_and_about_right(name: str, shared_stack: Stack) -> None:
    """Only the long form judges the control, so the short form has none."""
    found = result_of(SCENARIOS[name], shared_stack, 1, control=False)
    (trial,) = found.trials
    assert trial.named == found.scenario.cause, trial.causes
    assert trial.error <= 0.3, trial
    concluded(found)


@pytest.mark.service
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_cause_is_named_first_within_15_percent_at_the_median(name: str, tmp_path: Path) -> None:
    kind = SCENARIOS[name]
    with running_stack("sim", tmp_path / "run", **variables(kind, tmp_path)) as stack:
        found = result_of(kind, stack, TRIALS)
    scenario = found.scenario
    assert all(abs(trial.measured_seconds) >= 5 * found.quiet.noise_seconds for trial in found.trials), (
        "the fault is too small"
    )
    assert [trial.named for trial in found.trials] == [scenario.cause] * TRIALS
    if scenario.backend:
        assert {trial.named_backend for trial in found.trials} == {scenario.backend}
    assert found.median_error <= 0.15
    assert len(found.quiet.named) <= 1, found.quiet
    concluded(found)
    nothing_else_was_said(found)


@pytest.fixture(scope="module")
def vllm_stack_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two real engines behind one pool, with rules at a thirtieth of their time."""
    folder = tmp_path_factory.mktemp("causes-on-vllm")
    with running_stack("vllm", folder / "run", **variables(Scenario, folder)) as stack:
        yield stack


@pytest.mark.platform
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", REAL)
def test_on_vllm_a_cause_is_named_first_with_its_time(name: str, vllm_stack_of_two: Stack) -> None:
    found = result_of(REAL[name], vllm_stack_of_two, 1)
    (trial,) = found.trials
    assert trial.named == found.scenario.cause, trial.causes
    assert abs(trial.measured_seconds) >= 5 * found.quiet.noise_seconds
    assert trial.error <= 0.15
    concluded(found)
    nothing_else_was_said(found)
