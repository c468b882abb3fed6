"""What all clients send; it imports nothing, since `grpcio_peer` runs in an environment of its own.

Also:

- `do` in the metadata of UnaryCall: "wait" until the call is cancelled, "break" by an error that is
  no status; `fail-times` and a `key`: so many calls with that key fail with UNAVAILABLE.
- A response_status with the message "die" in FullDuplexCall: the server is to exit at once.
"""

UNREACHABLE_TARGET = "127.0.0.1:1"
"""Where nobody listens."""
DEADLINE = 1.0
"""Seconds; of calls that are with their handler long before."""
SHORT_DEADLINE = 0.1
"""Seconds; of a call that goes nowhere."""
CASE_RETRY_CONFIG = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
STREAM_MESSAGES = ((100, (3000,)), (2000, (50,)), (30000, (0,)))
"""Sizes of the requests of a stream, and of the replies to each."""
SIZES = (100, 3000, 20000)
"""Of three requests, or of three replies."""
