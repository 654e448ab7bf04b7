"""The counters in the words of Prometheus. Needs the package prometheus-client.

    REGISTRY.register(EventsCollector())

adds them to the metrics that a site has already; alone, they are at /events/metrics/.
"""

from collections.abc import Iterator
from itertools import accumulate

from django.core.exceptions import ImproperlyConfigured

from .metrics import DELAYS, ENDINGS, counters

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImproperlyConfigured(
        "EVENTS['METRICS_TOKEN'] needs the package prometheus-client: pip install prometheus-client."
    ) from error

__all__ = ["CONTENT_TYPE_LATEST", "EventsCollector", "exposition"]

_GAUGES = {
    "processes": ("hubs", "Processes that these metrics are the sum of, as far as they have been asked for events."),
    "broker_lost_processes": ("lost", "Those of them that cannot reach the broker, and try again."),
    "streams": ("streams", "Streams that are open."),
    "slow_streams": ("slow", "Open streams of EventWorker whose clients have not read what was written."),
}

_COUNTERS = {
    "streams_opened": ("opened", "Streams opened."),
    "streams_refused": ("refused", "Streams refused, as no more fitted."),
    "published": ("published", "Events published by these processes; others publish too."),
    "received": ("received", "Events that came from the broker; each process receives each."),
    "delivered": ("deliveries", "Events written to streams; one event for ten streams is ten."),
    "delivery_cpu_seconds": ("stream_seconds", "Processor time of writing them."),
    "gaps": ("gaps", "Readers told that events are lost to them."),
    "live_evaluations": ("evaluations", "Times that a live view was evaluated for those who listen."),
    "live_evaluations_late": (
        "evaluations_late",
        "Those that came later than the view's interval: there are too many.",
    ),
    "broker_reconnects": ("reconnects", "Times that a process has found the broker again."),
}


class EventsCollector(Collector):
    """What all processes of this server have counted."""

    def collect(self) -> Iterator[Metric]:
        total = counters.total()
        for name, (attribute, text) in _GAUGES.items():
            yield GaugeMetricFamily(f"events_{name}", text, getattr(total, attribute))
        for name, (attribute, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"events_{name}", text, getattr(total, attribute))
        closed = CounterMetricFamily("events_streams_closed", "Streams that have ended, and why.", labels=["reason"])
        for ending in ENDINGS:
            closed.add_metric([ending], getattr(total, ending))
        yield closed
        polls = CounterMetricFamily("events_polls", "Polls answered, by their status.", labels=["status"])
        polls.add_metric(["200"], total.polls - total.unchanged)
        polls.add_metric(["304"], total.unchanged)
        yield polls
        bounds = [*map(str, DELAYS), "+Inf"]
        yield HistogramMetricFamily(
            "events_delivery_delay_seconds",
            "From publishing to the write, of events for streams that were open already.",
            buckets=list(zip(bounds, accumulate(total.delays), strict=True)),
            sum_value=total.delay_seconds,
        )


def exposition() -> bytes:
    """The metrics of this app alone, as text."""
    registry = CollectorRegistry()
    registry.register(EventsCollector())
    return generate_latest(registry)
