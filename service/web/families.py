"""The names of what /metrics tells, by Prometheus' rules: base units, and `_total` for what only grows.

docs/metrics.md has the same table; a test holds the two and a scrape against each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

MOST = 1000  # values of a label; more say less


@dataclass(frozen=True)
class Family:
    """What is told under one name."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    text: str

    def of(self, *samples: tuple[Iterable[str], float | None]) -> Metric:
        """With these values; what is None is not known, and left out."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        made = make(self.name, self.text, labels=self.labels)
        for labels, value in samples:
            if value is not None:
                made.add_metric(tuple(labels), value)
        return made

    def is_(self, value: float | None) -> Metric:
        """Without labels."""
        return self.of(((), value))


REQUESTS = Family(
    "tocsin_http_requests_total",
    "counter",
    ("route", "method", "status"),
    "Requests that the application has answered.",
)
SECONDS = Family(
    "tocsin_http_request_duration_seconds",
    "histogram",
    ("route", "method"),
    "Time from a request to its answer, of a stream to its beginning, in seconds.",
)

BUILD = Family("tocsin_build_info", "gauge", ("version",), "Always 1; the version that runs is a label.")
# Of this server, by the metric of docs/monitor.md that it is.
READINGS = {
    "cpu_usage": Family("tocsin_cpu_usage_ratio", "gauge", ("scope",), "Processor use over the last second, 0 to 1."),
    "mem_usage": Family("tocsin_memory_usage_ratio", "gauge", ("scope",), "Memory in use, 0 to 1."),
    "disk_usage": Family("tocsin_disk_usage_ratio", "gauge", (), "Use of the file system that holds the data folder, 0 to 1."),
    "swap_usage": Family("tocsin_swap_usage_ratio", "gauge", (), "Swap in use, 0 to 1; missing where there is none."),
    "mount_usage": Family("tocsin_mount_usage_ratio", "gauge", ("mount",), "Use of each mounted disk, 0 to 1."),
    "load1": Family("tocsin_load1", "gauge", (), "Load average over a minute, in processes."),
    "load5": Family("tocsin_load5", "gauge", (), "Load average over 5 minutes, in processes."),
    "load15": Family("tocsin_load15", "gauge", (), "Load average over 15 minutes, in processes."),
    "cpu_pressure": Family(
        "tocsin_cpu_pressure_ratio", "gauge", ("scope",), "Share of the last 10 seconds in which a task waited for a processor."
    ),
    "mem_pressure": Family(
        "tocsin_memory_pressure_ratio", "gauge", ("scope",), "Share of the last 10 seconds in which a task waited for memory."
    ),
    "io_pressure": Family(
        "tocsin_io_pressure_ratio", "gauge", ("scope",), "Share of the last 10 seconds in which a task waited for a disk."
    ),
    "cpu_throttled": Family(
        "tocsin_cpu_throttled_ratio",
        "gauge",
        (),
        "Share of the container's last periods in which its CPU limit held it back, 0 to 1.",
    ),
    "oom_kills": Family(
        "tocsin_oom_kills", "gauge", (), "Processes of the container killed for lack of memory in the last 10 minutes."
    ),
}
THRESHOLDS = {
    "cpu_usage": Family("tocsin_cpu_threshold_ratio", "gauge", (), "TOCSIN_CPU_THRESHOLD, 0 to 1."),
    "mem_usage": Family("tocsin_memory_threshold_ratio", "gauge", (), "TOCSIN_MEM_THRESHOLD, 0 to 1."),
    "disk_usage": Family("tocsin_disk_threshold_ratio", "gauge", (), "TOCSIN_DISK_THRESHOLD, 0 to 1."),
}
READ = Family("tocsin_reading_timestamp_seconds", "gauge", (), "When these readings were taken, in seconds since 1970.")

DATABASE = Family("tocsin_database_up", "gauge", (), "1 when the database could be read for this scrape, else 0.")
# From the database; missing while it cannot be read.
STARTED = Family("tocsin_monitor_start_time_seconds", "gauge", (), "When the monitor started, in seconds since 1970.")
INTERVAL = Family("tocsin_monitor_interval_seconds", "gauge", (), "Time from one tick to the next as configured, in seconds.")
TICKS = Family("tocsin_monitor_ticks_total", "counter", (), "Ticks since the monitor started.")
LATE = Family("tocsin_monitor_late_ticks_total", "counter", (), "Of these, ticks that began too late.")
TICKED = Family(
    "tocsin_monitor_last_tick_timestamp_seconds", "gauge", (), "When the last tick was committed, in seconds since 1970."
)
TOOK = Family("tocsin_monitor_last_tick_duration_seconds", "gauge", (), "What the last tick took, probes included, in seconds.")
UP = Family("tocsin_target_up", "gauge", ("target",), "1 when the target answered as expected at the last tick, else 0.")
LATENCY = Family(
    "tocsin_target_latency_seconds", "gauge", ("target",), "Time until the target's answer was complete; missing without one."
)
ALERTS = Family("tocsin_alerts", "gauge", ("state", "severity"), "Alerts that are pending or fire.")
SILENCED = Family("tocsin_alerts_silenced", "gauge", (), "Alerts that fire and are silenced, or in a maintenance window.")
HELD = Family("tocsin_alerts_held", "gauge", (), "Alerts that fire and are not told because a parent is down.")
ACKNOWLEDGED = Family("tocsin_alerts_acknowledged", "gauge", (), "Alerts that fire and that somebody has acknowledged.")
NOTIFICATIONS = Family(
    "tocsin_notifications", "gauge", ("receiver", "state"), "Notifications that wait to be delivered, or were given up (dead)."
)
OLDEST = Family(
    "tocsin_notifications_oldest_undelivered_seconds", "gauge", (), "How long the oldest one waits; 0 when none does."
)
DELIVERIES = Family(
    "tocsin_deliveries_total",
    "counter",
    ("receiver", "outcome"),
    "Messages delivered, tries that failed, and notifications given up (dead).",
)
RESTARTS = Family("tocsin_restarts_total", "counter", ("service", "outcome"), "Restarts of services that have ended.")

EVERY = (
    REQUESTS, SECONDS, BUILD, *READINGS.values(), *THRESHOLDS.values(), READ, DATABASE, STARTED, INTERVAL, TICKS, LATE,
    TICKED, TOOK, UP, LATENCY, ALERTS, SILENCED, HELD, ACKNOWLEDGED, NOTIFICATIONS, OLDEST, DELIVERIES, RESTARTS,
)  # fmt: skip
