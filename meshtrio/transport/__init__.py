"""Byte streams: sockets, TLS, listeners, and connecting to addresses.

A `Transport` is a non-blocking byte stream that owns its socket; a `TlsTransport` is one with TLS.
A connection calls `handshake` once, then `receive` in its read loop and `try_send` from any task,
which never blocks. `close` may be called at any time.

Servers get sockets from `unix_listener` or `tcp_listener` and accept on them by an `Acceptor`,
which keeps reserved file descriptors, so that it can still reject clients when there are no others.
Clients get transports from `dial.dial`. On Unix sockets the other side is identified by the kernel
(SO_PEERCRED, see `peer` and `dial`), never by a path.

Nothing here knows HTTP/2 or gRPC.
"""
