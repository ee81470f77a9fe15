"""OpenTelemetry traces of requests and attempts. Nothing is loaded and nothing is sent unless `settings.traces` is set.

The trace of a submission is stored with the trial, because a message to workers is only a hint. Each attempt is a span
of that trace.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, final

from sqlalchemy import event

from nestor.errors import MissingExtra
from nestor_server.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from sqlalchemy import Engine, ExceptionContext

FLUSH_SECONDS = 2.0  # at the end of a process, also if nobody receives the spans
QUIET = "/healthz,/readyz,/metrics"  # what machines ask all the time

NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.fastapi")

_provider: TracerProvider | None = None


def expect_installed(settings: Settings) -> None:
    """Check that what `start` needs is there.

    Raises:
        MissingExtra: `settings.traces` is set, and OpenTelemetry is not installed.
    """
    if not settings.traces:
        return
    for module in NEEDED:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # not even the package above it
            found = None
        if found is None:
            raise MissingExtra(what="NESTOR_TRACES", package=module.replace(".", "-"), extra="telemetry")


def start(settings: Settings, service: str) -> None:
    """Send spans from now on, if `settings.traces` is set. The SDK reads where from the variables OTEL_*.

    Args:
        service: the default of OTEL_SERVICE_NAME.

    Raises:
        MissingExtra: as `expect_installed`.
    """
    global _provider
    expect_installed(settings)
    if not settings.traces or _provider is not None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", service)
    _provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def stop() -> None:
    """Send what was not sent yet, for a short time, and end the threads of the SDK.

    A collector that hangs makes them hang. They end when it does, or with the process, which does not wait for them.
    """
    global _provider
    if _provider is not None:
        sending = threading.Thread(target=_provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)
        _provider = None


def instrument(app: FastAPI, engines: Iterable[Engine]) -> None:
    """Make a span of each request to `app`, and below it of each statement on `engines`, once `start` was called."""
    if _provider is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=_provider, excluded_urls=QUIET, exclude_spans=["receive", "send"]
    )
    for engine in engines:
        event.listen(engine, "before_cursor_execute", _begin_statement)
        event.listen(engine, "after_cursor_execute", _end_statement)
        event.listen(engine, "handle_error", _end_failed_statement)


def _begin_statement(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if context is not None and current() is not None:
        context.nestor_span = begin(statement.split(None, 1)[0], statement=statement)


def _end_statement(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if (span := getattr(context, "nestor_span", None)) is not None:
        span.end()


def _end_failed_statement(failure: ExceptionContext) -> None:
    if (span := getattr(failure.execution_context, "nestor_span", None)) is not None:
        span.fail(type(failure.original_exception).__name__)
        span.end()


@final
class Span:
    """A span, or nothing if traces are off."""

    def __init__(self, span: OtelSpan | None) -> None:
        self._span = span

    def note(self, **attributes: Any) -> None:
        """Add attributes `nestor.NAME`."""
        if self._span is not None:
            self._span.set_attributes({f"nestor.{name}": value for name, value in attributes.items()})

    def fail(self, reason: str) -> None:
        """Mark it as failed."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, reason)

    def end(self) -> None:
        """End the span."""
        if self._span is not None:
            self._span.end()

    @contextmanager
    def active(self) -> Generator[None]:
        """Make it the parent of spans that begin inside the block, and end it with the block."""
        if self._span is None:
            yield
            return
        from opentelemetry.trace import use_span

        with use_span(self._span, end_on_exit=True):
            yield


def begin(name: str, *, parent: str | None = None, **attributes: Any) -> Span:
    """A span that begins now, below the active one.

    Args:
        parent: the `current` of another process, in place of the active span.
        attributes: as of `Span.note`.
    """
    if _provider is None:
        return Span(None)
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    above = None if parent is None else TraceContextTextMapPropagator().extract({"traceparent": parent})
    span = Span(_provider.get_tracer("nestor").start_span(name, context=above))
    span.note(**attributes)
    return span


def current() -> str | None:
    """The active span as W3C Trace Context writes it; None outside of spans."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """The active trace, as hexadecimal digits."""
    return traceparent.split("-")[1] if (traceparent := current()) else None
