"""Names of services to endpoints.

Theory of operation
-------------------
A registry maps the name of a service to a `ServiceState`: an immutable snapshot of its endpoints,
its service config, and the `ExitInfo` of the endpoints that are gone. The package is below the
client and the supervisor: both import it, it imports neither.

- The supervisor adds its plugins' services, registers an endpoint when a plugin becomes ready, and
  deregisters it with an `ExitInfo` when the plugin stops or dies.
- `static` registers the `[[service]]` tables of a config; `services.registry` the endpoints of
  programs that call `meshtrio.v1.Registry/Register`.
- Channels of the mesh's process watch a service directly (`registry.watch_service`). Channels of
  other processes watch it by `meshtrio.v1.Registry/Watch`; `registry_messages` converts.

Invariants:

- The id of an endpoint is never used again, so an `ExitInfo` names exactly one endpoint.
- A watcher holds one state, however slowly it reads: states in between are skipped, the latest
  never is. Several changes without a checkpoint between them wake a watcher once.
- A service is *managed* while a plugin or the config declares it, and *unmanaged* otherwise.
  Callers wait for an endpoint of a managed service; calls to an unmanaged one without endpoints
  fail at once.
- `Registry.revision` grows with each change of any service; `wait_changed` waits for the next.
- The number of exit infos, their text, and the number of idle unmanaged services are bounded.
"""
