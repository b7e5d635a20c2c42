"""Makes the shared fixtures known to the tests of every folder."""

pytest_plugins = ["harness.stack_fixtures"]
