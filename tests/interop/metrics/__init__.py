"""The metrics of gRFC A66 as meshtrio, grpc-go and grpcio count them for the same calls.

Each implementation is a process that serves or calls, and answers lines: see `peer` for the words.
`runs` has two of them make all calls, `compare` says what differs and why that may be.
"""
