"""Keys of the configuration and of the rules file under their former names, each accepted for one release (ADR 0032)."""

from platform_contracts.configuration_versions import Renamed

CONFIGURATION: tuple[Renamed, ...] = ()
RULES: tuple[Renamed, ...] = ()
WEIGHTS: tuple[Renamed, ...] = ()
