"""The gRPC client: channels, endpoints, connections and calls.

Theory of operation
-------------------

A *channel* (`channel`) makes calls to a service by name. It is a facade over three parts:

- a *resolver*, which the pool below runs, reports states of the service: its endpoints, its service
  config, and how processes of former endpoints ended;
- a *load balancer* (`load_balancer`) owns the channel's endpoints (`channel_endpoint`) and is its
  picker: `pick(PickArgs) -> PickResult`. Its decisions are pure (`load_balancing/`); it runs their
  tasks, one that ends the intervals of outlier detection, and `health_watch` for each endpoint;
- a *retry control* (`retry/policy`) holds the retry budget and throttle.

Connections are not the channel's. A *pool* (`subchannel_pool`) belongs to the trio run and owns one
*subchannel* (`subchannel`) for each endpoint and set of connection options. A subchannel connects,
reconnects with backoff, and replaces a connection that the server is shutting down while calls on
it finish. The pool also shares resolver runs among channels.

A stub's methods are *multicallables* (`multicallable`), which prepare a `CallContext` for each
call. A unary call goes down this path, which a test keeps short:

    UnaryUnaryMultiCallable.__call__      options, counters, tracer, interceptors
      run_attempts (retry/loop)           one attempt after another, by RetryState.next_delay
        Attempt.open                      pick a connection, encode headers, open a stream
        Attempt.exchange                  send, wait for the reply, translate the status

`request_headers` encodes the headers of an attempt, in which the caller's deadline becomes
`grpc-timeout`. If the connection broke, `describe_failure` waits for the exit info of the
endpoint, of which it makes a PluginDiedError. `retry/policy` decides on another attempt.

Hedging runs several such loops at once. A `StreamingCall` is a state machine; it uses the loop
until its first reply, which commits it. The gateway's `ProxiedCall` shares the decision and not
the loop.

`CallDestination` (`call_destination`), the base class of `Channel`, has what calls use of it.

Invariants
----------

- The code that opens an `Attempt` ends it; `end` may be repeated and never blocks.
- Every call and every attempt is counted once as started, and once as succeeded or failed.
- A call is retried transparently without limit if it never left this process, and once if a
  server's library refused it; all other retries need a policy, a deposit in the budget and time
  before the caller's deadline (gRFC A6). A committed call is not retried.
- A reload of the service config replaces balancers and detectors, and keeps what has been used up:
  retry budget, throttle, circuit breaker counts.
- Closing a channel fails the streams that it owns, on shared connections too, and no others.
- A pick result is used without a checkpoint between a free stream slot and opening the stream, so
  that no waiter sleeps beside a free slot.
- A failed call waits for exit info only if its connection broke, and for at most 80 ms (2 s after a
  GOAWAY).
"""
