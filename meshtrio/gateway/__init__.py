"""The servers of a mesh, and the gateway that forwards calls to its plugins.

Theory of operation
-------------------
`MeshServer` listens on the mesh socket and, if configured, on the gateway's TCP port. Both serve
the mesh's own services (control, registry, health, reflection) and forward all other calls:

1. The server asks `Router.accepts` whether a call is to be forwarded. `Router.forward` makes a
   `ProxiedCall` for it, which is the stream from the client.
2. `Route` says what the request headers name: a service of the mesh (metadata `x-mesh-target`, or
   :authority), or only a gRPC service. In the latter case `ServiceIndex` knows the service of the
   mesh: from the config, or from the plugins' reflection.
3. The router holds one channel for each service of the mesh (`find_open_channel`). `ProxiedCall`
   picks an endpoint, which is an instance of the plugin, from it as any client does, and opens an
   `UpstreamStream` there with the headers that the route encodes for it.
4. What arrives on one stream is written to the other by the read loop that has read it.

Who owns what: the router owns channels and the service index; the server's connection owns the
call, which is its downstream stream; the channel's connection owns the upstream stream. Call and
upstream stream refer to each other until the attempt is over.

Invariants:

- A call that goes well has no task of its own.
- Messages are neither parsed nor copied. A stream buffers at most one window for its peer, since
  the other stream's receive window shrinks by what is buffered.
- A request is retried only while all of it is buffered and no response headers came. It is retried
  after a refusal, which says that no plugin has processed it.
- The outcome is recorded once, when the state becomes FLUSHING or CLOSED (`call_state`).
- Imports point one way: `router` -> `proxied_call` -> `proxied_request` -> `call_opening`,
  `downstream_stream`, `upstream_stream`; both streams -> `proxied_streams`.
"""
