"""The gRPC services that meshtrio serves itself, and the parts of a mesh that call them.

Theory of operation
-------------------
Three groups of modules:

- In every server, of a mesh or a plugin (`add_standard_services` adds them, and imports all but
  health at the first call): `health`, `reflection` with `reflection_files`, `channelz`, `load`,
  `tap`, and in plugins `metrics` and `log_level`.
- On the mesh socket: `control` with `control_messages` (over `event_log`, `load_reports`,
  `log_level_controller` and `tap_client`), and `registry`. `access_control`
  checks every call, `call_quota` limits the calls of each user.
- In the mesh, as clients of its instances: `load_reports`, `tap_client`, `metrics_collector` and
  `log_level_controller`. All of them go through `instances`: `read_from_each_instance` reads
  a stream of each ready instance, `call_each_instance` makes one call to each.

Who owns what: a servicer owns nothing that outlives a call, except caches. Tasks belong to
`gateway.MeshServer`, which runs the load reports and the log level controller, or to the call.

Invariants:

- A response of an instance is not trusted: its size is limited before it is parsed, values are
  sanitized, and an exception ends the work for that instance only (`CallFailure`).
- A stream of updates holds the latest state or a bounded log (`broadcast_log`), however slowly its
  reader reads, and many readers do not take all of the mesh's time (`ReaderThrottle`).
- A stream ends when the graceful shutdown of its server begins, so that the drain is not delayed.
- Importing the package imports nothing else: the start-up time of plugins depends on it.
"""
