"""Targets -> samples: what is up, what an answer says, and how long it all may take."""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration import Target
from service.monitor.exchange import Answer
from service.monitor.probe import LONGEST_ANSWER, Prober, Sample, judged, readings
from service.settings import CHECKOUT
from tests.test_exchange import OK, hang, send, serving


def target(url: str = "http://127.0.0.1/", **given: Any) -> Target:
    return Target.model_validate({"name": "shop", "url": url} | given)


def answer(status: int = 200, body: bytes = b"", *, cut: bool = False) -> Answer:
    return Answer(status, {}, body, cut, 0.0123)


def by_metric(samples: list[Sample]) -> Mapping[str, Sample]:
    return {sample.metric: sample for sample in samples}


@pytest.mark.parametrize(
    ("expect", "status", "up", "reason"),
    [
        ((), 200, 1.0, ""),
        ((), 204, 1.0, ""),
        ((), 299, 1.0, ""),
        ((), 199, 0.0, "it answered 199"),
        ((), 301, 0.0, "it answered 301, a redirect; name the address it leads to"),
        ((), 404, 0.0, "it answered 404"),
        ((), 503, 0.0, "it answered 503"),
        ((200, 503), 503, 1.0, ""),
        ((401,), 401, 1.0, ""),
        ((401,), 200, 0.0, "it answered 200"),
    ],
)
def test_p16_up_means_the_exact_status(expect: tuple[int, ...], status: int, up: float, reason: str) -> None:
    """A target is up when its status is among the expected ones; a redirect is not health."""
    sample = by_metric(judged(target(expect=expect), answer(status)))["up"]

    assert (up, reason) == (sample.value, sample.reason)


def test_an_answer_has_its_status_and_time() -> None:
    """The status and the milliseconds of an answer are samples of their own, up or not."""
    samples = by_metric(judged(target(), answer(500)))

    assert (500.0, 12.3) == (samples["http_status"].value, samples["latency_ms"].value)


def test_an_answer_past_the_limit_is_down() -> None:
    """A body that had to be cut makes the target down, with the limit as reason."""
    assert (
        Sample("shop", "up", 0.0, reason=f"its answer is longer than {LONGEST_ANSWER} bytes")
        == judged(target(), answer(cut=True))[0]
    )


def test_the_readings_of_a_tocsin_become_samples() -> None:
    """Each check of /api/health is a sample with its unit and scope, a mounted disk with its label."""
    checks = {
        "cpu_usage": {"value": 12.5, "unit": "percent", "scope": "cgroup"},
        "mount_usage:/srv": {"value": 70, "metric": "mount_usage", "mount": "/srv", "scope": "host"},
    }
    found = readings("self", orjson.dumps({"checks": checks}))

    assert [
        Sample("self", "cpu_usage", 12.5, "percent", "cgroup"),
        Sample("self", "mount_usage", 70.0, "percent", "host", {"mount": "/srv"}),
    ] == found


def test_without_readings_only_the_answer_counts() -> None:
    """A target that is a second way to the same service does not give its readings twice."""
    body = orjson.dumps({"checks": {"cpu_usage": {"value": 1}}})

    assert {"up", "http_status", "latency_ms"} == set(by_metric(judged(target(readings=False), answer(body=body))))


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["checks", "cpu_usage", "value", "mount", "metric"]), inner)
        ),
    ).map(orjson.dumps)
)
def test_no_body_breaks_the_reading_of_it(body: bytes) -> None:
    """Whatever a target sends, its readings are samples of known metrics with finite values, or none."""
    for sample in readings("self", body):
        assert sample.value is not None
        assert abs(sample.value) < float("inf")


@pytest.mark.parametrize("field", ["scope", "metric", "mount", "value"])
def test_an_answer_nested_without_end_does_not_end_the_monitor(field: str) -> None:
    """A target is not trusted: what it nests a thousand levels deep is no reading, and no exception."""
    body = b'{"checks": {"cpu_usage": {"value": 1, "%s": %s1%s}}}' % (field.encode(), b"[" * 1000, b"]" * 1000)

    assert all(sample.scope == "" and sample.labels == {} for sample in readings("self", body))


def test_targets_are_asked_at_once_and_each_within_its_time() -> None:
    """Five targets that hang cost one time limit, not five, and do not touch the one that answers."""
    with serving(hang) as stuck, serving(send(OK)) as fine:
        targets = [target(stuck, name=f"stuck {number}", timeout="600ms") for number in range(5)]
        prober = Prober([*targets, target(fine, name="fine")])
        began = time.monotonic()
        samples = prober.probe()
        took = time.monotonic() - began
        prober.close()

    up = {sample.target: (sample.value, sample.reason) for sample in samples if sample.metric == "up"}
    assert {"fine": (1.0, "")} | {each.name: (0.0, "no complete answer within 0.6 s") for each in targets} == up
    assert took < 5 * 0.6 + 2  # one after the other would be 3 s and more; a busy machine gets two to spare


def test_targets_are_asked_again_over_the_same_prober() -> None:
    """A target that failed once is asked again, and is up again."""
    behaviours = iter([send(b"garbage\r\n\r\n"), send(OK)])

    def in_turn(connection: socket.socket) -> None:
        next(behaviours)(connection)

    with serving(in_turn) as url:
        prober = Prober([target(url)])
        ups = [by_metric(prober.probe())["up"].value for _ in range(2)]
        prober.close()

    assert [0.0, 1.0] == ups


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 258))  # as many as it keeps for other things, and two
from service.configuration import Target
from service.monitor.probe import Prober
prober = Prober([Target(name=str(number), url=sys.argv[1]) for number in range(5)])
print(*(sample.value for _ in range(3) for sample in prober.probe() if sample.metric == "up"))
prober.close()
"""


def test_who_may_open_few_files_keeps_few_connections() -> None:
    """More targets than files: none of them is down for it; those without a kept connection get a new one each time."""
    connections: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        connections.append(connection)
        while connection.recv(65_536):
            connection.sendall(OK)

    with serving(answer) as url:
        command = [sys.executable, "-c", FEW_FILES, url]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)

    assert ([1.0] * 15, "") == ([float(value) for value in done.stdout.split()], done.stderr)
    assert 5 + 3 + 3 == len(connections)
