"""A structured-concurrency runtime for plugin processes that talk gRPC."""

__version__ = "0.1.0"
