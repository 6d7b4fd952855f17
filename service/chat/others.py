"""All other chat services, by Apprise: https://appriseit.com/services/."""

import json
import logging
import re
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from apprise import Apprise, AppriseAsset, NotifyType

from service.chat.answers import NOT_TAKEN, NotTaken
from service.chat.text import LONGEST, markdown, plain, told

MEMORY = 128 << 20  # bytes of data that a try may have; loaded, Apprise has a third of that

# It writes addresses into its log.
_apprise = logging.getLogger("apprise")
_apprise.addHandler(logging.NullHandler())
_apprise.propagate = False
_apprise.setLevel(logging.CRITICAL + 1)

_DRAW_MARKDOWN = ("NotifyDiscord", "NotifyMattermost")  # in what Apprise takes for plain text
_STATUS = re.compile(r"(?:error=|failed: )([3-5]\d\d)\b")
# ntfy's own codes begin with the status: 42901.
_NTFY = re.compile(r"error=([3-5]\d\d)(?:\d\d)?\b")


def connected(address: str) -> Any:
    """Apprise's service for an address, None when it knows none. It tries once and follows no redirect."""
    # In the thread that asks for it, and without pictures, which a chat service would fetch from Apprise's repository.
    asset = AppriseAsset(app_id="Tocsin", app_desc="Tocsin", async_mode=False, service_timeout=0, image_url_mask="")
    service = Apprise.instantiate(address, asset=asset)
    if service is not None:
        service.redirects = False  # whatever the address says
        service.request_rate_per_sec = 0.0  # delivery waits when the service says so
    return service


def notify(service: Any, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
    """Tell a service that is `connected` once.

    Raises NotTaken, with the status that Apprise mentions; how long to wait it does not hand on.
    """
    service.socket_connect_timeout = service.socket_read_timeout = timeout
    plugin = type(service).__name__
    drawn = plugin in _DRAW_MARKDOWN and service.resolve_format("text") == "text"
    body = told(contents, min(LONGEST, service.body_maxlen), escape=markdown if drawn else plain)
    if plugin == "NotifyWorkflows":
        body = body.replace("\n", "\n\n")  # an Adaptive Card takes the end of one line for a space
    firing = [content["severity"] for content in contents if content["status"] == "firing"]
    kind = NotifyType.FAILURE if "critical" in firing else NotifyType.WARNING if firing else NotifyType.SUCCESS
    kind = NotifyType.INFO if contents[0]["status"] == "report" else kind
    result = Apprise(service, asset=service.asset).notify(body, body_format="text", notify_type=kind)
    if not result:
        pattern = _NTFY if plugin == "NotifyNtfy" else _STATUS
        statuses = [int(found[1]) for entry in result.logs() if (found := pattern.search(entry.message))]
        raise NotTaken(f"it answered {statuses[-1]}", statuses[-1]) if statuses else NotTaken(NOT_TAKEN)


def main() -> int:
    """One try, for `apart`: the order on standard input, `null` or why it was not taken on standard output."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    _apprise.setLevel(logging.WARNING)  # what it says of one message is taken from the result, for which it must be said
    order = json.load(sys.stdin)
    service = connected(order["address"])  # loads what takes longest
    signal.setitimer(signal.ITIMER_REAL, order["timeout"])  # the kernel ends it then, whatever it does
    refused = None
    try:
        notify(service, order["contents"], order["timeout"])
    except NotTaken as error:
        refused = {"reason": str(error), "status": error.status}
    print(json.dumps(refused))  # noqa: T201 - to who has started it
    return 0


if __name__ == "__main__":
    sys.exit(main())
