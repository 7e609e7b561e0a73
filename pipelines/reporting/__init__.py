"""What a run did: its history, its findings and its places, for report.html, Prometheus and OpenTelemetry."""
