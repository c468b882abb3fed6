"""gRPC on trio: connections, streams, servers and call tracers, with purerpc's programming model.

Theory of operation
-------------------

Layers. `http2` and `grpc` know the protocols and do no I/O; `transport` moves bytes; this package
joins both and gives streams to calls. Clients' calls are made in `client`, which opens streams on a
`ClientConnection`; handlers are run by `Server` through `ServerConnection` and `ServerCall`; the
gateway puts streams of its own on both.

Ownership. A `Server` owns its listener and its `ServerConnection`s, which run in the nursery of
`serve`. A connection owns its transport, its engine (`H2Connection`), its write buffer and the
streams in `streams`; its tasks, among them all handlers of a server, run in the nursery of `run`.
When `run` returns, all streams have failed or ended and the socket is closed. A `Stream` belongs to
one call, and refers to its connection as a `ConnectionIO` only.

Receiving. The read loop (`ConnectionIO`) reads the socket, feeds the engine, and calls a handler
for each event it returns: `_on_data` passes DATA to `Stream.on_data`, which queues messages
(`ReceiveBuffer`) and wakes the task that waits in `receive`. After a read, flow-control windows are
opened by what was taken, and everything that the read has led to is flushed.

Sending. A task sends by `Stream.send`: the engine turns a message into frames as far as the windows
allow, and `Connection.flush` writes them directly to the socket. What the kernel does not take
stays in the write buffer, and senders wait while that is above its high-water mark. A generator
that yields several messages without waiting has them written together (`MessageBatch`), at the
latest before it waits. Senders that wait for the connection's window are woken in order
(`WindowWaiters`).

A call on a server. `ServerConnection._on_request` decides: refuse (limits), reject (`rejection`),
forward (`Forwarder`) or handle. A handled call is a `Stream` and a task that runs `ServerCall.run`:
the handler in a cancel scope with the caller's deadline, which `Stream.fail` cancels, and then the
status. `ServerContext` is what the handler sees of it. `HandlerTasks` gives a task, with its scope,
to one call after another.

Stopping. `drain` sends two GOAWAYs a round trip apart and waits for the calls in progress;
`shut_down` ends them with UNAVAILABLE and refuses those that have not started; cancelling `run`
fails them.

Limits. `ConnectionLimiter` counts connections; `PeerAccounts` charge memory to peers, which share
it over all their connections; `EventLoopShare` makes peers take turns; `Timeouts` are checked once
a second by the owner of a connection. A peer that abuses the protocol is refused for a while.

Invariants
- Nothing that a peer sends raises out of `Connection.run`.
- No method of a connection or stream that is not `async` blocks, and none raises because the
  connection is closed: calls learn of it by their stream's error.
- A stream in `streams` is in the engine, too; `remove_stream` and `_fail_stream` are the only ways
  out (and `abandon_if_exiting`, for a process that exits).
- Each stream of a server is charged to exactly one account until it is removed.
- Counters only count up; `Connection.statistics` derives the rest.
- Call tracers never fail a call (`tracer_dispatch`), and cost nothing if none is installed.
"""
