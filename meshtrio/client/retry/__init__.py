"""Retries and hedging (gRFC A6).

`policy` decides, purely: `RetryState` for one call, within the `RetryControl` of its channel.
`loop` makes the attempts of one call, and `hedging` runs several loops at once.
"""
