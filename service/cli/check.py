"""`tocsin check`: a plugin for Nagios, Icinga and what else runs such ones. docs/check.md has its table."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from urllib.parse import quote

import click
import orjson

from service.monitor.exchange import Answer, Client, Unreachable
from service.plugin import Limits, State, StrangeError, judge, line
from service.settings import Settings
from service.values import ConfigurationError, http_address, seconds

_LONGEST = 8 << 20  # bytes of one answer
_AWAY = (502, 503, 504)  # what answers for a Tocsin that is not there


class _Command(click.Command):
    """A plugin that is called wrongly says UNKNOWN where its output is read, and does not end with click's 2: CRITICAL."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            _end(State.UNKNOWN, error.format_message())


class _Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`90` as plugins write it, or `1m30s` as the rest of Tocsin does."""
        try:
            found = seconds(f"{value}s" if str(value).replace(".", "", 1).isdecimal() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if found <= 0:
            self.fail(f"{value!r} is no time", param, ctx)
        return found


class _Address(click.ParamType[str]):
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return http_address(value).get_secret_value().rstrip("/")
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Refused(Exception):  # noqa: N818 - it names what is so
    def __init__(self, state: State, text: str) -> None:
        super().__init__(text)
        self.state = state


@click.command("check", cls=_Command)
@click.option(
    "-u", "--url", type=_Address(), help="Where the Tocsin answers, such as http://192.0.2.7:8080. Without it: the one here."
)
@click.option("-t", "--timeout", type=_Seconds(), default="10s", show_default=True, help="For all of it.")
@click.option("-w", "--warning", type=_Seconds(), default="5m", show_default=True, help="WARNING when a message waits longer.")
@click.option("-c", "--critical", type=_Seconds(), default="30m", show_default=True, help="CRITICAL when it waits longer.")
def check(url: str | None, timeout: float, warning: float, critical: float) -> None:
    """Say in one line how a Tocsin is, as a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."""
    try:
        if url is None:
            settings = Settings.from_environment()
            url = settings.front_url.get_secret_value().removesuffix("/api/health") if settings.front_url else _here(settings)
            # With TLS nginx answers health alone without it; its certificate need not have a name for the way from here.
            within = f"http://{settings.web_address}" if settings.tls_cert else url
        else:
            within = url
        _end(*_asked(url, within, timeout, Limits(warning, critical)))
    except ConfigurationError as error:
        _end(State.UNKNOWN, "; ".join(error.faults))
    except Unreachable as error:
        _end(State.CRITICAL, f"Tocsin does not answer: {error}")
    except _Refused as error:
        _end(error.state, str(error))
    except StrangeError:
        _end(State.UNKNOWN, "what answers there is no Tocsin")
    except Exception as error:  # noqa: BLE001 - a traceback would be told as WARNING, which is Python's status 1
        _end(State.UNKNOWN, f"the check itself fails ({type(error).__name__})")


def _here(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(settings.bind, settings.bind)  # noqa: S104 - compared
    return f"http://{host}:{settings.http_port}"


def _end(state: State, text: str, figures: list[str] | None = None) -> NoReturn:
    # In bytes: a plugin's locale may have no letter for what is said.
    sys.stdout.buffer.write(f"{line(state, text, figures or ())}\n".encode())
    sys.stdout.flush()
    sys.exit(state)


def _asked(url: str, within: str, timeout: float, limits: Limits) -> tuple[State, str, list[str]]:
    """Health at `url`, what the database tells at `within`."""
    began, client = time.monotonic(), Client()

    def ask(path: str, place: str = within) -> Answer:
        left = timeout - (time.monotonic() - began)
        if left <= 0:
            raise Unreachable(f"no complete answer within {timeout:g} s", sent=True)
        return client.ask("GET", place + path, timeout=left, limit=_LONGEST)

    try:
        answer = ask("/api/health", url)
        health = _object(answer)
        if "reasons" not in health:
            # nginx says so when its app is away, and a balancer when there is nobody behind it.
            if answer.status in _AWAY:
                raise _Refused(State.CRITICAL, f"Tocsin does not answer: {answer.status} from what stands before it")
            if answer.status in (401, 403, 429):
                raise _Refused(State.UNKNOWN, f"the check is refused: {answer.status}")
            raise StrangeError
        return judge(health, _told(ask("/api/v1/monitor")), list(_firing(ask)), limits)
    finally:
        client.close()


def _firing(ask: Callable[[str], Answer]) -> Iterator[dict[str, Any]]:
    """All that fire, page by page."""
    after = ""
    while True:
        page = _told(ask(f"/api/v1/alerts?state=firing&limit=500{after}"))
        if not isinstance(page.get("alerts"), list):
            raise StrangeError
        yield from page["alerts"]
        if page.get("next") is None:
            return
        after = f"&after={quote(str(page['next']), safe='')}"


def _told(answer: Answer) -> dict[str, Any]:
    """What the database tells."""
    said = _object(answer)
    if answer.status == 200:
        return said
    detail = said.get("detail", "")
    if answer.status >= 500:
        raise _Refused(State.CRITICAL, f"Tocsin cannot tell how it is: {answer.status} {detail}")
    raise _Refused(State.UNKNOWN, f"the check is refused: {answer.status} {detail}")


def _object(answer: Answer) -> dict[str, Any]:
    """The JSON object in an answer; an empty one where there is none."""
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) and not answer.cut else {}
