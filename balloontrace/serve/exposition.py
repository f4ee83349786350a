# SPDX-License-Identifier: GPL-2.0-or-later
"""Families as Prometheus reads them: over HTTP, or from a file for node_exporter's textfile collector.

The one module that knows prometheus_client.
"""

from __future__ import annotations

import gzip
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from balloontrace.errors import UsageError
from balloontrace.serve.families import Family, Histogram, Kind
from balloontrace.serve.series_text import SeriesText

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

FILE_NAME = "balloontrace.prom"
_REQUEST_S = 10
_FORMATS = 4  # that are kept ready: Prometheus asks for the same one each time
_FASTEST = 1  # a sixteenth of the text; the library's 9 takes four times as long for a twentieth
_END = "# EOF\n"  # of OpenMetrics
_READABLE = 0o644


def as_metric(family: Family) -> Metric:
    """A family in the library's own words."""
    name, labels = family.name, list(family.labels)
    if family.kind is Kind.HISTOGRAM:
        found = HistogramMetricFamily(name, family.help, labels=labels)
        for of_labels, value in family.samples:
            assert isinstance(value, Histogram)
            found.add_metric(list(of_labels), list(value.buckets), value.sum_s)
        return found
    make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    values = make(name, family.help, labels=labels)
    for of_labels, value in family.samples:
        assert not isinstance(value, Histogram)
        values.add_metric(list(of_labels), value)
    return values


class Exposition:
    """What is asked for anew at each scrape, and what this process costs itself; a WSGI application too."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families
        self._own = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="balloontrace", registry=self._own)
        self._format = lru_cache(_FORMATS)(_Format)  # what one knows of series is some 1 MB for 100 VMs
        self._beside_scrapes = make_wsgi_app(self._own)
        self._lock = threading.Lock()

    def write(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text, in the format that a request's Accept prefers."""
        with self._lock:
            form = self._format(accept)
            # Last what the library writes by itself, which ends the text where it has to have an end.
            text = form.series.write(self._families()).encode() + form.encode(self._own)
        return form.content_type, text

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"] == "/favicon.ico":
            answer: Iterable[bytes] = self._beside_scrapes(environ, start_response)
            return answer
        content_type, text = self.write(environ.get("HTTP_ACCEPT", ""))
        headers = [("Content-Type", content_type)]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            text = gzip.compress(text, _FASTEST)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", headers)
        return [text]


class _Format:
    """One that the library writes."""

    def __init__(self, accept: str) -> None:
        self.encode, self.content_type = choose_encoder(accept)
        self.series = SeriesText(self._write_family, floatToGoString)

    def _write_family(self, family: Family) -> str:
        text: str = self.encode(_One(as_metric(family))).decode()
        return text.removesuffix(_END)


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def write_textfile(exposition: Exposition, folder: Path) -> None:
    """Replace the file in `folder` at once, so that none reads half of it. OSError as writing raises it."""
    partial = folder / f"{FILE_NAME}.{os.getpid()}"
    try:
        partial.write_bytes(exposition.write()[1])
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
    """Answers scrapes; it listens from the start, and answers inside the context."""

    def __init__(self, exposition: Exposition, host: str, port: int) -> None:
        """UsageError where it cannot listen there."""
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, exposition, kind, _Handler)
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
