"""A real supervisord with the programs that a test gives it, and its socket in the data folder, as ours has it."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.stack import BIN, ROOT, eventually, process

SLEEPS = "command = sleep 1000"
STOPPED = "command = sleep 1000\nautostart = false"


def answers(port: int) -> str:
    """A program that answers 200 there."""
    return f"command = {BIN}/python -m http.server {port} --bind 127.0.0.1 --directory {ROOT}/service/web/static"


def is_mute(port: int) -> str:
    """A program that takes connections there and never answers."""
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(1000)"
    return f'command = {BIN}/python -c "{code}"'


@dataclass
class Supervised:
    """The data folder of a supervisord that runs."""

    folder: Path

    def ctl(self, *arguments: str) -> str:
        """What a person does: supervisorctl."""
        command = [str(BIN / "supervisorctl"), "-s", f"unix://{self.folder}/supervisor.sock", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()

    def pid(self, program: str) -> int:
        """Of its process; 0 where there is none."""
        return int(said) if (said := self.ctl("pid", program)).isdecimal() else 0


@contextmanager
def supervised(folder: Path, programs: Mapping[str, str], **env: str) -> Iterator[Supervised]:
    """`programs`: of each one the lines of its section. It is up when all that start by themselves run."""
    sections = "".join(
        f"[program:{name}]\n{lines}\nautorestart = true\nredirect_stderr = true\nstdout_logfile = {folder}/{name}.log\n"
        for name, lines in programs.items()
    )
    (folder / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon = true\nlogfile = {folder}/supervisord.log\npidfile = {folder}/supervisord.pid\n"
        f"[unix_http_server]\nfile = {folder}/supervisor.sock\nchmod = 0600\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n" + sections
    )
    left: list[psutil.Process] = []
    with process([BIN / "supervisord", "-c", folder / "supervisord.conf"], env, folder / "output") as child:
        running = Supervised(folder)
        waiting = [name for name, lines in programs.items() if "autostart = false" not in lines]
        eventually(lambda: all(f"{name} " in said for name in waiting) if (said := _running(running)) else None, "all run")
        try:
            yield running
        finally:
            with suppress(psutil.NoSuchProcess):
                left = psutil.Process(child.pid).children(recursive=True)
    for each in left:  # they lead groups of their own, and outlive a supervisord that had to be killed
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _running(running: Supervised) -> str:
    return "\n".join(f"{line.split()[0]} " for line in running.ctl("status").splitlines() if "RUNNING" in line)


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
