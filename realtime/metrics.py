"""What is counted, by name. One registry a node (several live in one process); no label per key or client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"realtime_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"realtime_{name}", text, labels, registry=registry)

        self.connections = gauge("connections", "Open connections.", "transport")
        self.subscriptions = gauge("subscriptions", "Subscriptions of all sessions of this node.")
        self.channels = gauge("channels", "Channels that this node follows.")
        self.events = counter("events", "Events that reached this node.", "store", "op")
        self.deliveries = counter("deliveries", "Events handed to sessions.")
        self.delay = Histogram(
            "realtime_delivery_seconds",
            "From the store's commit to the sessions of this node.",
            ("store",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.resumes = counter("resume", "Subscribes with a cursor.", "result")
        self.repairs = counter("repairs", "Holes filled from the history.")
        self.resets = counter("resets", "Channels whose sessions were given a new snapshot.", "reason")
        self.slow = counter("slow_sessions", "Sessions ended because more waited for them than may wait.")
        self.conflated = counter(
            "conflated_events", "Events that slow sessions were spared, as newer ones of their key came."
        )
        self.broker_up = gauge("broker_up", "1 while the broker's deliveries reach this node.")
        self.breaks = counter("broker_breaks", "Times that the broker's deliveries to this node broke off.")
        self.store_up = gauge("store_up", "1 while the store answers.", "store")
        self.feed_holder = gauge("feed_holder", "1 while this node carries the store's changes.", "store")
        self.published = counter("published", "Changes handed to the broker by this node.", "store")
        self.takeovers = counter("takeovers", "Feeds that this node took over from another, or from nobody.", "store")
        self.reconciles = counter("reconciles", "Changes found by looking, by what made us look.", "store", "by")
        self.tasks = gauge("tasks", "Tasks of the event loop; what only grows is a leak.")
        self.limited = counter("limited", "Refused, as it was more than may be; by the limit.", "limit")
        self.requests = counter("http_requests", "Answered HTTP requests.", "method", "status")

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
