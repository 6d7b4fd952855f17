"""A server that stands for every chat service, over real TLS, and the addresses that they give out."""

import contextlib
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.serving import serving

KEY = "3ccdd11347472237793551abcd"
BOT = "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
FLOW = "/workflows/3e61e1a0e1/triggers/manual/paths/invoke"
FLOW_QUERY = "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=iXKeS3CRET_a"
# What the service gives out, and where it must be posted to.
ADDRESSES = {
    "slack": ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", None),
    "slack workflow": ("https://hooks.slack.com/workflows/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXr/x", None),
    "slack trigger": ("https://hooks.slack.com/triggers/T1JJ3T3L2/4174216298/f7b9c1d3", None),
    "discord": ("https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", None),
    "discord of a tester": (
        "https://ptb.discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?wait=true&thread_id=81",
        "ptb.discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
    ),
    "teams": (f"https://prod-12.westeurope.logic.azure.com:443{FLOW}{FLOW_QUERY}", f"prod-12.westeurope.logic.azure.com{FLOW}"),
    "power automate": (
        f"https://d8d.ee.environment.api.powerplatform.com:443/powerautomate/automations/direct{FLOW}{FLOW_QUERY}",
        f"d8d.ee.environment.api.powerplatform.com/powerautomate/automations/direct{FLOW}",
    ),
    "feishu": ("https://open.feishu.cn/open-apis/bot/v2/hook/0b5a-4c3d", None),
    "lark": ("https://open.larksuite.com/open-apis/bot/v2/hook/0b5a-4c3d", None),
    "dingtalk": ("https://oapi.dingtalk.com/robot/send?access_token=abc123def", "oapi.dingtalk.com/robot/send"),
    "wecom": ("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=5f0b-aa", "qyapi.weixin.qq.com/cgi-bin/webhook/send"),
    "mattermost": (f"https://chat.example/hooks/{KEY}", None),
    "telegram": (f"https://api.telegram.org/bot{BOT}/sendMessage?chat_id=-100123", f"api.telegram.org/bot{BOT}/sendMessage"),
    "ntfy": ("https://ntfy.sh/tocsin-9f3c", "ntfy.sh/"),
    "apprise": ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnl", "hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnl"),
}
HOSTS = sorted({(posted or pasted).removeprefix("https://").partition("/")[0] for pasted, posted in ADDRESSES.values()})
TAKEN = b'{"ok":true,"code":0,"errcode":0}'
ALERT = {
    "status": "firing",
    "alert": "HighCpu",
    "severity": "critical",
    "target": "shop",
    "instance": "web-1",
    "summary": "shop: CPU at 93 %",
    "reason": "cpu_usage > 80 for 60 s",
    "starts_at": "2026-10-16T11:41:00.412Z",
    "ends_at": None,
}
RESOLVED = ALERT | {
    "status": "resolved",
    "summary": "Resolved after 3 min 10 s: shop: CPU at 41 %",
    "reason": "not cpu_usage > 80",
    "ends_at": "2026-10-16T11:44:10.419Z",
}


@dataclass
class Service:
    """What was posted to which host and path, with which query, and what it does then."""

    port: int = 0
    posted: list[tuple[str, Any]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    answer: Callable[[int], int] = lambda number: 200  # 0: none at all
    says: bytes = TAKEN  # to what it takes Slack's hooks and Mattermost say ok
    refuses: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def texts(self, place: str) -> list[str]:
        """All texts in what was posted to a host and path."""
        return [text for where, body in self.posted if where == place for text in texts_in(body)]


def texts_in(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [text for each in inner for text in texts_in(each)]


@contextlib.contextmanager
def chatting(context: ssl.SSLContext) -> Iterator[Service]:
    """Run it for the length of a `with` block."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path, _, query = self.path.partition("?")
            service.posted.append((f"{self.headers['Host'].removesuffix(':443')}{path}", json.loads(body)))
            service.queries.append(query)
            service.bodies.append(body)
            status = service.answer(len(service.posted))
            if not status:
                return
            self.send_response(status)
            self.send_header("Location", "https://hooks.slack.com/services/elsewhere")
            for name, value in service.headers.items() if status >= 300 else ():
                self.send_header(name, value)
            self.end_headers()
            place = service.posted[-1][0]
            plain = place.startswith("hooks.slack.com/services") or "/hooks/" in place
            taken = b"ok" if plain and service.says == TAKEN else service.says
            self.wfile.write(taken if status < 300 else service.refuses)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    service.port = server.server_address[1]
    with serving(server):
        yield service


def environment(ca: Path, proxy: str, **more: str) -> dict[str, str]:
    return os.environ | {"HTTPS_PROXY": proxy, "NO_PROXY": "", "REQUESTS_CA_BUNDLE": str(ca)} | more
