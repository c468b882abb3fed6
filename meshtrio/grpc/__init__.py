"""gRPC over HTTP/2 without I/O: no trio, no sockets, no clock.

Theory of operation
===================

`GrpcConnection` is an `H2Connection` whose events carry parsed headers. All functions here are
pure; state is only in `MessageReader`, of which a stream has one at most.

    connection        the engine with gRPC's parsers
    headers           the one parser of request headers, response headers and trailers
    header_builder    the one builder of the same, for client, server and gateway
    header_values     the values of grpc-timeout and grpc-message
    metadata          keys and values that applications may write, and what peers have sent
    status            status codes, and the status of a call that ended without one
    framing           messages in DATA, and their compression
    service_config    a service config and its parser
    outlier_detection its settings of outlier detection, and what that reports

A call on a client is `build_request_headers` (once per method) plus `timeout_field` and
`encode_metadata` (per call), then `frame_message`; its response is parsed by
`parse_response_headers` and `MessageReader`, and ends with the status that `status_of_call`
returns. A server does the reverse with `parse_request_headers`, `build_response_headers` and
`build_trailers`.

Invariants
----------

- What HTTP/2 calls malformed raises `MalformedHeadersError`, which costs the peer the stream. What
  only gRPC forbids becomes a status: `RequestHeaders.error_message`.
- What a program writes is checked, what a peer has sent is forwarded unchanged (`ReceivedText`,
  `encode_received_metadata`, `Trailers.encoded_message`).
- A status is a pair of code and message here. Exceptions are made of it in `meshtrio.rpc.errors`.
"""
