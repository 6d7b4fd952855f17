"""The request that is being answered, for what looks at it at every request.

Flask's proxies find it anew for each attribute that is asked of them, which takes seven times as long as finding it.
"""

from typing import Any, cast

from flask import Request, g, request
from werkzeug.local import LocalProxy


def asked() -> Request:
    return cast("LocalProxy[Request]", request)._get_current_object()  # noqa: SLF001 - Flask's documentation does so


def kept() -> dict[str, Any]:
    """What `g` holds."""
    return vars(cast("LocalProxy[object]", g)._get_current_object())  # noqa: SLF001
