"""HTTP/2 without I/O (RFC 9113): no trio, no sockets, no clock.

Theory of operation
===================

`H2Connection` is one side of a connection. It does not know which transport carries its bytes, nor
which application protocol its header lists belong to (`HeaderParsers`); `meshtrio.grpc` supplies
the latter, and `meshtrio.rpc` the former:

    engine = GrpcConnection(Role.SERVER)
    sock.send(engine.data_to_send())                    # the connection preface
    while data := sock.recv(65_536):
        for event in engine.receive_data(data, now): ...  # which may call methods that send
        sock.send(engine.data_to_send())

Methods fall into four groups:

- `receive_data` takes bytes, and returns the events of the frames that they complete, in order. The
  time is an argument, so that the same bytes at the same times have the same result.
- `open_stream`, `send_headers`, `send_data`, `reset_stream`, `set_receive_window`, `ping`, the
  methods of a graceful shutdown and `close` put frames into a buffer. Nothing is sent by itself but
  answers that the protocol requires (acknowledgements, WINDOW_UPDATE of the connection, RST_STREAM
  and GOAWAY after errors of the peer).
- `data_to_send` or `buffers_to_send` take the buffer. Call one after each of the above.
- The properties describe the state, and change nothing; so do those of the parts that are public
  (`frame_reader`, `peer_settings`, `windows`, `streams`, `abuse_limits`).

Who owns what
-------------

    H2Connection              public API, and all that is sent
      FrameReader             incomplete frames and header blocks (frame_reader, also for padding)
      FrameReceiver           what received frames change, and their events; owns `HeaderDecoder`
      StreamTable             records of open streams (`H2Stream`), which ids are idle or refused
        ResetStreams          which closed streams were reset, since their late frames are harmless
      PeerSettings            what the peer has announced
      ConnectionWindows       the connection's windows; those of streams are in `H2Stream`
      AbuseLimits             token buckets for what costs the peer nothing

Invariants
----------

- A violation by the peer never raises: `StreamError` and `RemoteProtocolError` stay inside, and
  become `StreamReset` and `ConnectionFailed`. Only `LocalProtocolError` leaves, for a bug of the
  caller.
- After `ConnectionFailed`, or `close`, there are no more events. The buffer still holds GOAWAY.
- A stream that has ended on both sides, or was reset, has no record, and no event follows.
- Memory is bounded by `Limits`: one incomplete frame, one incomplete header block, one record per
  open stream, 256 ids of reset streams and 64 cached header lists. DATA is not held, but returned.
- An encoded header block depends on its fields alone, so callers may encode it once and send it on
  any connection (`meshtrio.http2.hpack.encoder`).
"""
