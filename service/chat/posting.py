"""One POST to a chat service. Its time is limited by the thread it runs in."""

from collections.abc import Mapping, Sequence
from typing import Any

import requests

from service.chat.answers import encoded, read
from service.chat.services import Service
from service.chat.text import told

ANSWER = 4096  # bytes read of an answer


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: asked for redirects not to be followed, requests still reads their whole body to have the next one ready."""


def post(service: Service, address: str, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
    """Tell it once, by the environment's proxy if there is one. Raises NotTaken, and whatever requests does."""
    text = told(contents, service.longest, length=service.length, escape=service.escape)
    where, more = service.where(address)
    critical = any(content["status"] == "firing" and content["severity"] == "critical" for content in contents)
    body = encoded({**service.body(text), **more, **(service.critical if critical else {})})
    headers = {"Content-Type": "application/json", "User-Agent": "tocsin", "Accept-Encoding": "identity"}
    with (
        _Session() as session,
        session.post(where, data=body, headers=headers, timeout=timeout, allow_redirects=False, stream=True) as answer,
    ):
        content = answer.raw.read(ANSWER, decode_content=True)
        read(service.answers, address, answer.status_code, answer.headers, content)
