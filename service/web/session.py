"""Who is logged in: a signed cookie, which the API key opens and which no one else can make.

The cookie signs what it says, and says when it ends. What signs it is made from the API key, so all workers agree on it, and
with another key everybody is logged out. A form counts only with the token that the session holds, and from this site.

The API takes no cookie: what a page of somebody else can make a browser send does not reach it.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from pydantic import SecretStr

LIFETIME = 12 * 3600  # seconds; then whoever logged in does so again
COOKIE = "tocsin"
FOREIGN = (
    "This form comes from somewhere else, as far as your browser says. Is there a proxy in front of Tocsin? It must pass "
    "the Host header on."
)
_PLACE = 'name="csrf" value=""'


@dataclass(frozen=True)
class Member:
    """Somebody who is logged in."""

    author: str
    token: str
    until: float  # seconds since 1970


class _Sessions(SecureCookieSessionInterface):
    digest_method = staticmethod(hashlib.sha256)

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002 - Flask's signature
        return request.is_secure

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Without a cookie there is nothing to verify, and so no need for what verifies it."""
        if app.secret_key and "HTTP_COOKIE" not in request.environ:
            return self.session_class()
        return super().open_session(app, request)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """One that nobody has looked at is as it was. What Flask's test client writes into one, nobody has looked at."""
        if session.accessed or session.modified:
            super().save_session(app, session, response)


def init_app(app: Flask, key: SecretStr | None) -> None:
    """Without a key there are no sessions: nobody can log in."""
    if key is not None:
        secret = key.get_secret_value().encode("utf-8", "surrogateescape")
        app.secret_key = hmac.digest(secret, b"tocsin: the session cookie", "sha256")
        # Cookies know no ports: one with the same name would end the session of another Tocsin on the same host.
        app.config["SESSION_COOKIE_NAME"] = (
            f"{COOKIE}-{hmac.digest(secret, b'tocsin: the name of the cookie', 'sha256').hex()[:8]}"
        )
    app.session_interface = _Sessions()
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=LIFETIME,
    )


def log_in(author: str) -> Member:
    """Begin a session in this answer's cookie."""
    member = Member(author, secrets.token_urlsafe(24), time.time() + LIFETIME)
    session.clear()
    session.permanent = True
    session.update(vars(member))
    return member


def log_out() -> None:
    session.clear()


def member() -> Member | None:
    """Whoever sent this request; None when nobody is logged in, or not any more."""
    try:
        found = Member(session["author"], session["token"], session["until"])
    except KeyError:
        return None
    return found if time.time() < found.until else None


def is_own(asked: Request) -> bool:
    """Whether a form comes from a page of ours, as far as the browser says.

    `Sec-Fetch-Site` is the browser's own word, and independent of proxies; it comes over https and on the same machine. Else
    `Origin` is compared. A browser sends one of the two with every form; what sends neither carries nobody's cookie unasked.
    """
    site = asked.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = asked.headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc == asked.host
    except ValueError:  # such as a bracket that is not closed
        return False


def is_signed(asked: Request, known: Member) -> bool:
    """Whether a form has the token of its session."""
    return hmac.compare_digest(asked.form.get("csrf", "").encode(), known.token.encode())


def with_token(html: str, known: Member | None) -> str:
    """Put the token into the forms.

    What people wrote cannot pass for such a place: its quotes are escaped.
    """
    return html if known is None else html.replace(_PLACE, f'name="csrf" value="{known.token}"')
