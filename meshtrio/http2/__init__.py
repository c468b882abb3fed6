"""Sans-IO HTTP/2 (RFC 9113) and gRPC framing: no trio, no sockets, no clock.

`H2Connection` is fed bytes and gives events; what it has to say waits in `data_to_send()`. Nothing
in this package blocks, sleeps, logs or knows which transport carries the bytes.
"""
