"""The limits of each client, reloaded when the settings file changes. Must not know the store."""

from pathlib import Path

import structlog

from edge_gateway.client_limits import Limits
from edge_gateway.settings import BadSettings, Settings, load_settings
from rate_limit_service.budgets import Limit


class WatchedLimits:
    """The shared limits of a settings file. If the file becomes invalid, the last valid limits stay in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger()
        self._settings = load_settings(path, warn=self._warn)
        self._teams = _teams_of(self._settings.limits)
        self._modified = path.stat().st_mtime_ns

    @property
    def settings(self) -> Settings:
        """The settings as last read."""
        return self._settings

    def of(self, client: str) -> Limit:
        """Return the shared limits of ``client`` and its team."""
        return _shared(self._settings.limits, client, self._teams.get(client, ""))

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
            self._teams = _teams_of(self._settings.limits)
        except (OSError, BadSettings) as error:
            self._log.error("limits_not_reloaded", error=str(error))
            return False
        self._log.info("limits_reloaded")
        return True


def _teams_of(limits: Limits) -> dict[str, str]:
    """Return the team of each client that has one."""
    return {client: name for name, team in limits.teams.items() for client in team.clients}


def _shared(limits: Limits, client: str, team: str) -> Limit:
    own = limits.clients.get(client, limits.default)
    shared = limits.teams.get(team)
    return Limit(
        requests_per_minute=own.requests_per_minute,
        tokens_per_minute=own.tokens_per_minute,
        tokens_per_day=own.tokens_per_day,
        tokens_per_month=own.tokens_per_month,
        team=team,
        team_tokens_per_minute=shared.tokens_per_minute if shared is not None else None,
        team_tokens_per_day=shared.tokens_per_day if shared is not None else None,
        team_tokens_per_month=shared.tokens_per_month if shared is not None else None,
    )
