"""Makes the shared fixtures known to the tests of every folder, and lets tests interrupt their processes."""

import signal

pytest_plugins = ["harness.stacks.endings", "harness.stacks.fixtures"]

# A script without a terminal may start the tests with SIGINT ignored, and their processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
