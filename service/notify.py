"""What a service of systemd with Type=notify tells it: sd_notify(3), which is one datagram to a socket that it names.

By hand: these lines are the whole protocol, and a library would be a dependency for them.
"""

import os
import socket


def tell(*lines: str) -> None:
    """Send NAME=VALUE lines to whoever started this process; to nobody where nobody asked for them.

    A systemd that does not listen is not worth a tick: nothing is raised.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):  # a path, or a name in the abstract name space
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
            datagram.setblocking(False)  # noqa: FBT003 - its signature
            datagram.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            datagram.send("\n".join(lines).encode())
    except (OSError, ValueError):
        return


def promise(seconds: float) -> None:
    """We have started, and within so many seconds there is another promise: later, systemd's watchdog ends us.

    The time goes along, for ticks may be a second or a day apart; WatchdogSec= in the unit holds until the first promise.
    """
    tell("READY=1", f"WATCHDOG_USEC={round(seconds * 1_000_000)}", "WATCHDOG=1")
