"""Makes the shared fixtures known to the tests of every folder, lets tests interrupt their processes, and sets up
Hypothesis.
"""

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["harness.clients.certificate_store", "harness.stacks.endings", "harness.stacks.fixtures"]

# A script without a terminal may start the tests with SIGINT ignored, and their processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test may fail because the machine is busy. Hypothesis measures wall time in both.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
