"""A blueprint that writes down each of its executions, and takes its time."""

import os
import time

from flask import Blueprint, request

counted = Blueprint("counted", __name__, url_prefix="/counted")


@counted.route("/<name>", methods=["GET", "POST"])
def execute(name: str) -> str:
    """One line in the file COUNTED, appended in one piece. Then some seconds, in which it may be stopped or reloaded."""
    descriptor = os.open(os.environ["COUNTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{name}\n".encode())
    os.close(descriptor)
    time.sleep(float(request.args.get("seconds", "0.03")))
    return name
