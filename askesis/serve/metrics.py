"""What a gateway did and does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counters and histograms of one gateway. gauges: name and meaning to a function that says the value now."""

    def __init__(self, gauges: Mapping[tuple[str, str], Callable[[], float]]) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by path and status.", ("path", "status"))
        self._tokens = self._counter("tokens", "Tokens by kind; reasoning is part of completion.", ("kind",))
        self._turns = self._counter("turns", "Turns by how their history stood to the record.", ("history",))
        self.first = self._histogram("first_token_seconds", "From a request to its first token.")
        self.whole = self._histogram("request_seconds", "From a request to its end.")
        for (name, meaning), value in gauges.items():
            gauge = Gauge(f"askesis_{name}", meaning, registry=self._registry)
            gauge.set_function(value)

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"askesis_{name}", meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(f"askesis_{name}", meaning, registry=self._registry, buckets=_SECONDS)

    def request(self, path: str, status: int) -> None:
        """A request has ended."""
        self._requests.labels(path, str(status)).inc()

    def turn(self, history: str, prompt: int, completion: int, reasoning: int) -> None:
        """A turn was spoken."""
        self._turns.labels(history).inc()
        for kind, count in (("prompt", prompt), ("completion", completion), ("reasoning", reasoning)):
            self._tokens.labels(kind).inc(count)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
