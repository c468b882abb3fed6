"""Export of spans by OTLP over HTTP: OpenTelemetry's own exporter, in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import requests
import trio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from meshtrio.config.otlp_endpoint import OtlpEndpoint
from meshtrio.telemetry.traces.batch_span_processor import ExportSpans, SpanExportError
from meshtrio.util.tls_config import ClientTlsConfig


def make_http_exporter(collector: OtlpEndpoint, timeout_seconds: float) -> ExportSpans:
    """Return a function that exports batches of spans to a collector's URL."""
    url, tls = collector.url, collector.tls or ClientTlsConfig()
    files = (tls.ca, tls.certificate, tls.key)
    ca, certificate, key = (None if file is None else str(file) for file in files)
    exporter = OTLPSpanExporter(
        endpoint=url,
        certificate_file=ca,
        client_certificate_file=certificate,
        client_key_file=key,
        headers=dict(collector.headers),
        timeout=timeout_seconds,
        session=_Session(),
    )

    async def export_batch(spans: Sequence[ReadableSpan]) -> tuple[int, str]:
        try:
            result = await trio.to_thread.run_sync(exporter.export, spans, abandon_on_cancel=True)
        except ValueError as exc:
            raise SpanExportError(f"encoding failed: {exc}") from None
        if result is not SpanExportResult.SUCCESS:
            raise SpanExportError(f"the collector at {url} did not accept them; see the log")
        return 0, ""

    return export_batch


class _Session(requests.Session):
    """A session whose configured CA overrides REQUESTS_CA_BUNDLE, not the other way round."""

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        verify = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)
