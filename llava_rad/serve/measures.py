"""What is counted while the server runs, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Measures:
    """The measures of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "llava_rad_requests",
            "Requests answered, by endpoint and status; 499 are clients that hung up.",
            ["path", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "llava_rad_request_seconds",
            "From the request's head to the end of the answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "llava_rad_batch_size",
            "Reports that were decoded together.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self._batch_seconds = Counter(
            "llava_rad_batch_seconds", "Time spent on batches.", registry=self._registry
        )
        self._tokens = Counter(
            "llava_rad_tokens", "Tokens of reports, by model.", ["model"], registry=self._registry
        )
        self.in_hand = Gauge(
            "llava_rad_in_hand", "Requests that hold a place.", registry=self._registry
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request is over.

        Args:
            path: of the endpoint, as its route says it; a client's own words would be endless.
            status: of HTTP.
            seconds: it took.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch_done(self, size: int, seconds: float) -> None:
        """A batch of reports is decoded."""
        self._batches.observe(size)
        self._batch_seconds.inc(seconds)

    def written(self, model: str, tokens: int) -> None:
        """A report is written."""
        self._tokens.labels(model).inc(tokens)

    def text(self, accept: str) -> tuple[bytes, str]:
        """All measures, and their media type.

        Args:
            accept: the header in which a client says what it reads.
        """
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type
