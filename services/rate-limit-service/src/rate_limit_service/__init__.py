import platform_contracts.first_process  # noqa: F401 (before every slower import)
