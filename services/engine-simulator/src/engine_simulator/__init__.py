"""An inference engine without a model: vLLM's API, metric names and timing, with faults on command. For tests
only.
"""

import platform_contracts.first_process  # noqa: F401 (before every slower import)
