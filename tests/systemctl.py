"""Stands where `systemctl` stands, and notes down in LOG what it was asked and what was said.

systemctl.py ask CONTAINER LOG ARGUMENT...    asks the one in a container
systemctl.py play RECORDING LOG ARGUMENT...   says again what one said
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def ask(container: str, arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(["docker", "exec", container, "systemctl", *arguments], capture_output=True, text=True, check=False)
    return {"arguments": arguments, "status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def play(said: list[dict[str, Any]], asked: list[list[str]]) -> dict[str, Any]:
    """What was said to the last that was asked. Raises IndexError when that was not recorded."""
    place = -1
    for arguments in asked:
        following = place + 1
        if "show" in arguments:
            # The last state is told again, until the command that was given next is given.
            place = following if following < len(said) and arguments == said[following]["arguments"] else place
        else:
            place = next(index for index in range(following, len(said) + 1) if "show" not in said[index]["arguments"])
        if said[place]["arguments"] != arguments:
            raise IndexError
    return said[place]


def main(verb: str, source: str, log: Path, arguments: list[str]) -> int:
    before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    try:
        answer = (
            ask(source, arguments)
            if verb == "ask"
            else play(json.loads(Path(source).read_text())["said"], [*(each["arguments"] for each in before), arguments])
        )
    except IndexError:
        answer = {"arguments": arguments, "status": 99, "stdout": "", "stderr": f"not recorded: {arguments}"}
    with log.open("a") as file:
        file.write(f"{json.dumps(answer)}\n")
    sys.stdout.write(answer["stdout"])
    sys.stderr.write(answer["stderr"])
    return int(answer["status"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
