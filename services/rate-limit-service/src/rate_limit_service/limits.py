"""The limits of each client, reloaded when the settings file changes. Must not know the store."""

from pathlib import Path

import structlog

from edge_gateway.settings import BadSettings, ClientLimits, Settings, load_settings
from rate_limit_service.store import Limit


class WatchedLimits:
    """The shared limits of a settings file. If the file becomes invalid, the last valid limits stay in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger()
        self._settings = load_settings(path, warn=self._warn)
        self._modified = path.stat().st_mtime_ns

    @property
    def settings(self) -> Settings:
        """The settings as last read."""
        return self._settings

    def of(self, client: str) -> Limit:
        """Return the shared limits of ``client``."""
        limits = self._settings.limits
        return _shared(limits.clients.get(client, limits.default))

    def _warn(self, problem: str) -> None:
        self._log.warning("config_key_renamed", problems=[problem])

    def refresh(self) -> bool:
        """Reload the file if it changed; return whether the limits were reloaded."""
        try:
            modified = self._path.stat().st_mtime_ns
            if modified == self._modified:
                return False
            self._modified = modified
            self._settings = load_settings(self._path, warn=self._warn)
        except (OSError, BadSettings) as error:
            self._log.error("limits_not_reloaded", error=str(error))
            return False
        self._log.info("limits_reloaded")
        return True


def _shared(limits: ClientLimits) -> Limit:
    return Limit(limits.requests_per_minute, limits.tokens_per_minute)
