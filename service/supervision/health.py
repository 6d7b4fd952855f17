"""Whether a service answers, at its own address."""

import threading

_SECONDS = 2.0  # for one look, all together
_LATE = f"it does not answer within {_SECONDS:g} s"


def fault_at(url: str) -> str:
    """Why what answers there is not healthy; empty when it answers 200 to 299."""
    said = [_LATE]
    # On a thread: the time limit of `requests` is for one read, so a byte now and then would hold us for ever.
    look = threading.Thread(target=lambda: said.append(_asked(url)), daemon=True)
    look.start()
    look.join(_SECONDS)
    return said[-1]


def _asked(url: str) -> str:
    import requests  # noqa: PLC0415 - 5 MB that a web worker which restarts nothing does without

    with requests.Session() as session:
        session.trust_env = False  # proxies and .netrc are meant for other programs
        try:
            # The status alone: what it says is not read.
            with session.get(url, timeout=_SECONDS, stream=True, allow_redirects=False) as answer:
                return "" if 200 <= answer.status_code < 300 else f"it answers {answer.status_code}"
        except requests.Timeout:
            return _LATE
        except (requests.RequestException, ValueError) as error:  # a host that cannot be one is urllib3's own ValueError
            return f"it does not answer ({type(error).__name__})"
