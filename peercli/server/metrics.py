"""What the broker counts, for Prometheus: plain numbers while it works, made into text when asked."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Counts", "Gauges", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)  # seconds


@dataclass(slots=True)
class Counts:
    """What only grows."""

    opened: int = 0  # WebSockets
    messages: Counter[str] = field(default_factory=Counter)  # from clients, by type
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCIES) + 1))
    latency_sum: float = 0.0

    def took(self, seconds: float, count: int) -> None:
        """So many messages that came together have been read and written on in this time."""
        self.latency[bisect_left(LATENCIES, seconds)] += count
        self.latency_sum += seconds * count


@dataclass(slots=True, kw_only=True)
class Gauges:
    """How it is right now."""

    clients: dict[str, int]  # by API key
    sockets: int
    connections: int  # HTTP and not yet sockets included
    held_bytes: int
    held_peers: int  # absent peers that something waits for
    paused: int  # sockets that are kept waiting, as they send too much
    redis_up: bool | None  # None: it is not asked for
    redis_under_way: int  # messages without a receipt


class _Broker(Collector):
    def __init__(self, counts: Counts, gauges: Callable[[], Gauges]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        counts, now = self._counts, self._gauges()
        clients = GaugeMetricFamily("peercli_clients", "Clients with an id.", labels=["key"])
        for key, number in now.clients.items():
            clients.add_metric([key], number)
        yield clients
        yield GaugeMetricFamily("peercli_sockets", "Open WebSockets.", value=now.sockets)
        yield GaugeMetricFamily("peercli_connections", "Open connections of any kind.", value=now.connections)
        yield GaugeMetricFamily("peercli_paused_sockets", "Sockets kept waiting.", value=now.paused)
        yield GaugeMetricFamily("peercli_held_bytes", "Bytes held for absent peers.", value=now.held_bytes)
        yield GaugeMetricFamily("peercli_held_peers", "Absent peers with mail.", value=now.held_peers)
        yield CounterMetricFamily("peercli_sockets_opened", "WebSockets opened.", value=counts.opened)
        messages = CounterMetricFamily("peercli_messages", "Messages from clients.", labels=["type"])
        for kind, number in sorted(counts.messages.items()):
            messages.add_metric([kind], number)
        yield messages
        rejected = CounterMetricFamily("peercli_rejected", "Refusals and drops.", labels=["reason"])
        for reason, number in sorted(counts.rejected.items()):
            rejected.add_metric([reason], number)
        yield rejected
        bounds = [*(str(bound) for bound in LATENCIES), "+Inf"]
        buckets = list(zip(bounds, accumulate(counts.latency), strict=True))
        yield HistogramMetricFamily(
            "peercli_message_seconds",
            "From reading a message to writing it.",
            buckets=buckets,
            sum_value=counts.latency_sum,
        )
        if now.redis_up is not None:
            yield GaugeMetricFamily("peercli_redis_up", "Whether Redis answers.", value=now.redis_up)
            yield GaugeMetricFamily(
                "peercli_redis_under_way", "Messages without a receipt.", value=now.redis_under_way
            )


def render(counts: Counts, gauges: Callable[[], Gauges]) -> bytes:
    """All of it in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Broker(counts, gauges))
    return generate_latest(registry)
