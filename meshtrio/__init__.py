"""A structured-concurrency runtime for plugin processes that talk gRPC.

Programs import `mesh` (run a mesh, or connect to one), `plugin` (serve as a plugin), `config`,
`errors` and `telemetry`; generated code imports `stubs`. docs/design.md says which package does
what, and how to find the code that answers a question.
"""

__version__ = "0.1.0"
