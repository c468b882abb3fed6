"""Telemetry: subscribers to what the core does, which knows nothing of them."""
