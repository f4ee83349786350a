# SPDX-License-Identifier: GPL-2.0-or-later
"""Families as Prometheus reads them: over HTTP, or from a file for node_exporter's textfile collector.

The one module that knows prometheus_client.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from types import TracebackType
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from balloontrace.errors import UsageError
from balloontrace.serve.families import Family, Histogram, Kind

FILE_NAME = "balloontrace.prom"
_REQUEST_S = 10
_READABLE = 0o644


class _Families(Collector):
    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return map(as_metric, self._families())


def as_metric(family: Family) -> Metric:
    """A family in the library's own words."""
    name, labels = family.name, list(family.labels)
    if family.kind is Kind.HISTOGRAM:
        found = HistogramMetricFamily(name, family.help, labels=labels)
        for sample in family.samples:
            assert isinstance(sample.value, Histogram)
            found.add_metric(list(sample.labels), list(sample.value.buckets), sample.value.sum_s)
        return found
    make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    values = make(name, family.help, labels=labels)
    for sample in family.samples:
        assert not isinstance(sample.value, Histogram)
        values.add_metric(list(sample.labels), sample.value)
    return values


def make_registry(families: Callable[[], Iterable[Family]]) -> CollectorRegistry:
    """What is asked for anew at each scrape, and what this process costs itself."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    ProcessCollector(namespace="balloontrace", registry=registry)
    return registry


def write_textfile(registry: CollectorRegistry, folder: Path) -> None:
    """Replace the file in `folder` at once, so that none reads half of it. OSError as writing raises it."""
    partial = folder / f"{FILE_NAME}.{os.getpid()}"
    try:
        partial.write_bytes(generate_latest(registry))
        partial.chmod(_READABLE)
        partial.replace(folder / FILE_NAME)
    finally:
        partial.unlink(missing_ok=True)


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  (the library's name)
        """Nobody wants a line for each scrape."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16


class _Server6(_Server):
    address_family = socket.AF_INET6


class HttpServer:
    """Serves a registry; it listens from the start, and answers inside the context."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """UsageError where it cannot listen there."""
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, make_wsgi_app(registry), kind, _Handler)
        except OSError as error:
            raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
