"""Runs the tests in a rules file."""

from router_service.config import RouterConfig
from router_service.pipeline.dry_run import dry_run_idle


def run_rule_tests(config: RouterConfig) -> list[str]:
    """Run every test; return one sentence per failure."""
    failures = []
    for test in config.tests:
        _, decision = dry_run_idle(
            config, test.request, path=test.path, headers=test.headers, client_id=test.client_id
        )
        got = {"pool": decision.pool, "rule": decision.rule_name, "reason": decision.reason}
        for key, expected in test.expect.model_dump(exclude_none=True).items():
            if got[key] != expected:
                failures.append(f'{test.name}: expected {key} "{expected}", got "{got[key] or "none"}"')
    return failures
