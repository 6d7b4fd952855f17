"""gunicorn's settings. `gunicorn -c deploy/gunicorn.conf.py`; the rest comes from the environment (.env.example)."""

import gc
import math
import mmap
import signal
import sys

import psutil
from gevent import monkey
from gunicorn.arbiter import Arbiter

from service import counting, logs
from service.cgroup import Cgroup
from service.measure import usable_cores
from service.server import PropagatingLogger, Worker
from service.settings import LEAST_MEMORY, Settings
from service.values import ConfigurationError

try:
    settings = Settings.from_environment()
except ConfigurationError as error:
    sys.exit(str(error))
cgroup = Cgroup.of_this_process()

wsgi_app = "service.web:create_app()"
bind = settings.web_address

# What the container may use, not what the machine has. The workers together may have six tenths of the memory: the rest
# is for the master and the monitor.
in_cgroup = cgroup.memory_used()
allowed = 0.6 * min(psutil.virtual_memory().total, in_cgroup[1] if in_cgroup else math.inf)
# Two workers at least: while one starts again after a crash, the other answers. But no more than have room, which is one
# below 427 MiB: the kernel would kill one of two that grow, and in the worst case the monitor.
workers = settings.web_concurrency or max(1, min(max(2, math.ceil(usable_cores(cgroup))), int(allowed / LEAST_MEMORY)))
worker_class = Worker
# Open requests a worker takes on; past it the kernel's queue holds them. Costs a greenlet each (a few kB).
worker_connections = 1000
backlog = 1024
# Each worker makes the application for itself, so that a reload brings what has changed in the blueprints of others. Our own
# code and the libraries are loaded in the master, below, and so are in memory once.
preload_app = False

# The heartbeat of a worker, in a file: in memory, or a slow disk would make gunicorn kill healthy workers.
worker_tmp_dir = "/dev/shm"  # noqa: S108 - gunicorn makes a file of its own in it and unlinks it at once
# With gevent this is a limit on a worker whose loop stands still, not on a request: nginx limits those. What waits on its
# connections meanwhile is answered when that is over, so it must be well before nginx gives up (`proxy_read_timeout`).
timeout = 10
# A worker that has answered so many is replaced, and what has leaked slowly goes with it. It costs a start, a third of a
# second of processor time, in hours of health checks. The jitter: so that they do not go at the same moment.
max_requests = 10_000
max_requests_jitter = 2_000
# What leaks quickly is replaced when it has so many bytes.
worker_memory = settings.worker_memory or max(LEAST_MEMORY, int(allowed / workers))
# How long requests in flight may take to end after a stop. supervisord waits longer (stopwaitsecs), Docker longer
# still (stop_grace_period).
graceful_timeout = 30 + math.ceil(settings.drain)
# Longer than nginx keeps an idle connection (`keepalive_timeout` in the upstream block, 4 s). Were it shorter,
# gunicorn would close one just as nginx sends a request on it: a 502, and a POST is not tried again.
keepalive = 8

# nginx has checked these already; a second reader of HTTP should not be more generous than the first.
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
# The address in X-Forwarded-For is for the application to judge; gunicorn need not believe anyone's scheme.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}

# Its control socket wants to write below HOME, which a read-only container does not have. Signals do the same.
control_socket_disable = True

# The application writes the one line for each request (service/web/access.py). gunicorn's own format cannot escape:
# a path with a quote or %0a would break its line, or forge one.
accesslog = None
# Its other messages, and everyone else's, become lines of the same kind.
logger_class = PropagatingLogger
logs.configure("tocsin-web", settings.log_level)


def on_starting(server: Arbiter) -> None:
    """Memory that master and workers share: Worker.reloads, and nearly all that is loaded."""
    # First, for whatever takes hold of `ssl`, a lock or a socket before gevent has patched it fails at the first TLS connection
    # of a worker (RecursionError), or blocks all of it. The rest each worker patches: the master sleeps as Python does.
    monkey.patch_thread()
    monkey.patch_socket()
    monkey.patch_ssl()
    import service.web  # noqa: F401, PLC0415 - not before the patch

    # A collection in a worker would write into every object, and so into a copy of every page.
    gc.collect()
    gc.freeze()
    server.reloads = mmap.mmap(-1, 2)
    # What workers have counted is in memory too, for /metrics (service/counting.py): 128 KiB for each.
    server.counts = counting.folder()


def on_exit(server: Arbiter) -> None:
    if server.counts:
        server.counts.delete()


def on_reload(server: Arbiter) -> None:
    server.reloads[0] = (server.reloads[0] + 1) % 256


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """During a reload the old workers and the new live side by side: each has a number of its own."""
    number = counting.slot([each.counted[1] for each in server.WORKERS.values()])
    worker.counted = (server.counts and server.counts.path, number)


def post_fork(server: Arbiter, worker: Worker) -> None:
    if server.counts:
        server.counts.let_go()
    # It has the master's handlers until it has its own, and they only take a note: a stop would wait for it in vain.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    worker.drain = settings.drain
    worker.reloads, worker.generation = server.reloads, server.reloads[0]
    worker.memory = int(worker_memory * (1 - worker.age % 4 * 0.03))  # neighbours do not reach it at the same moment


def post_worker_init(worker: Worker) -> None:
    """Before it accepts: a worker that answers "starting" while the others are ready would look like a fault."""
    worker.wsgi.extensions["sampler"].wait_until_ready(5)
    # It accepts now, and those that it replaces may go: unless it was forked before the reload, and is to go itself.
    if not worker.replaced():
        worker.reloads[1] = worker.generation
