"""The configuration as a worker of the web server sees it: read at the first question, and again whenever the file changed."""

from collections.abc import Mapping

import structlog
from werkzeug.exceptions import NotFound, ServiceUnavailable

from service import loading
from service.configuration import Configuration
from service.services import Service
from service.settings import Settings
from service.values import ConfigurationError, suggestion
from service.web.api import RETRY

_log = structlog.get_logger()


class Configured:
    """What the configuration names, read at the first question and again whenever the file has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: object = ()  # no file's stamp
        self._found: Configuration | None = None

    def configuration(self) -> Configuration:
        """A faulty file changes nothing; raises ServiceUnavailable where there was none without a fault yet."""
        stamp = self._stamp()
        if stamp != self._read:
            self._read = stamp
            self._load()
        if self._found is None:
            raise ServiceUnavailable("The configuration has a fault; `tocsin check-config` names it.", retry_after=RETRY)
        return self._found

    def every(self) -> Mapping[str, Service]:
        """The services by name. Raises as `configuration` does."""
        return {service.name: service for service in self.configuration().services}

    def named(self, name: str) -> Service:
        """Raises NotFound."""
        every = self.every()
        if name not in every:
            raise NotFound(f"there is no service {name!r}{suggestion(name, every)}")
        return every[name]

    def _load(self) -> None:
        try:
            self._found = loading.load(self._settings)
        except ConfigurationError as error:
            _log.error("the configuration has a fault, so it is not read", reason=str(error))

    def _stamp(self) -> object:
        path = self._settings.config
        try:
            found = path.stat() if path else None
        except OSError as error:
            return error.errno
        return found and (found.st_mtime_ns, found.st_ino, found.st_size)
