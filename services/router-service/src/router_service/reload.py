"""Watches the configuration files and reloads them. Must not know the parts that use the configuration."""

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

from watchfiles import awatch

from router_service.background import Log
from router_service.change_watch import configuration_change, rollout_changes
from router_service.config import BadConfig, RouterConfig, load

_AT_START = (
    *("server.host", "server.port", "redis", "budgets", "affinity.enabled"),
    *("health.timeout_seconds", "telemetry.otlp_endpoint"),
)
"""Settings that take effect only at start: a change waits for a restart, and the reload logs a warning."""


class Reloader:
    """Holds the ``config`` in use; ``ok`` is False while the files are refused. ``apply`` is called with each new
    one.
    """

    def __init__(
        self, path: Path, config: RouterConfig, apply: Callable[[RouterConfig], None], log: Log
    ) -> None:
        self._path = path
        self._apply = apply
        self._log = log
        self.config = config
        self.ok = True

    async def watch(self) -> None:
        """Reload whenever a file changes, until cancelled."""
        # Watch folders, not files: Kubernetes replaces a ConfigMap through a symbolic link in its folder.
        while True:
            files = self.config.files
            wanted = {file.name for file in files} | {"..data"}
            async for _ in awatch(
                *{file.parent.absolute() for file in files},
                watch_filter=lambda change, path, wanted=wanted: Path(path).name in wanted,  # type: ignore[misc]
                step=50,
                debounce=200,
                recursive=False,
            ):
                self.reload()
                if self.config.files != files:
                    break

    def warn_of_former_keys(self, config: RouterConfig) -> None:
        """Log each former key of the files; the next release refuses it."""
        if config.warnings:
            self._log("warning", "config_key_renamed", problems=list(config.warnings))

    def reload(self) -> None:
        """Load the current files; if they are refused, log why and keep the configuration in use."""
        try:
            config = load(self._path)
        except BadConfig as error:
            if self.ok:
                self._log("error", "config_refused", problems=str(error).splitlines())
            self.ok = False
            return
        self.ok = True
        if config.warnings != self.config.warnings:
            self.warn_of_former_keys(config)
        before, self.config = self.config, config  # With the same hash, a rollout's state may still differ.
        if config.hash == before.hash:
            return
        self._apply(config)
        if config.plain_hash != before.plain_hash:
            self._log("info", "change", **configuration_change(before, config))
        for change in rollout_changes(before, config):
            self._log("info", "change", **change)
        waits = [k for k in _AT_START if attrgetter(k)(config.values) != attrgetter(k)(before.values)]
        self._log(
            "warning" if waits else "info", "config_loaded", config_hash=config.hash, after_restart=waits
        )
