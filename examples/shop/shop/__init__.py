"""A shop with one shelf, as a Flask blueprint. It knows nothing of Tocsin, and runs beside it as well as on its own."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from flask import Blueprint, Response, abort, redirect, render_template, url_for
from werkzeug.wrappers import Response as Redirection

GOODS = (("bell", 3), ("lantern", 5), ("rope", 10))
POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"

blueprint = Blueprint(
    "shop", __name__, url_prefix="/shop", template_folder="templates", static_folder="static", static_url_path="/static"
)
_log = logging.getLogger(__name__)


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """A transaction in the file that SHOP_DATABASE names."""
    with closing(sqlite3.connect(os.environ.get("SHOP_DATABASE", "shop.db"), timeout=5)) as connection, connection:
        yield connection


@blueprint.record_once
def stock(_: object) -> None:
    """Once for each start of a worker: the table is there, and something is on the shelf."""
    with database() as shelf:
        shelf.execute("create table if not exists goods (name text primary key, pieces integer not null)")
        shelf.executemany("insert or ignore into goods values (?, ?)", GOODS)


@blueprint.get("/")
def index() -> Response:
    with database() as shelf:
        goods = shelf.execute("select name, pieces from goods order by name").fetchall()
    page = Response(render_template("shop/index.html", goods=goods))
    page.headers["Content-Security-Policy"] = POLICY  # without one a page may load nothing, not even its style
    return page


@blueprint.post("/buy/<name>")
def buy(name: str) -> Redirection:
    with database() as shelf:
        sold = shelf.execute("update goods set pieces = pieces - 1 where name = ? and pieces > 0", [name]).rowcount
    if not sold:
        abort(409, f"There is no {name} on the shelf.")
    _log.info("sold one %s", name)
    return redirect(url_for("shop.index"), 303)


@blueprint.get("/health")
def health() -> dict[str, int]:
    """What the monitor asks: it fails when the shop could sell nothing."""
    with database() as shelf:
        return {"kinds": shelf.execute("select count(*) from goods").fetchone()[0]}
