"""The gateway: calls that are passed on."""
