"""Load balancing decisions: pure, without trio, sockets, clocks or global random.

`policies` selects the ready endpoints of the best priority, and picks one of them for each attempt.
`outlier_detection` finds the endpoints to eject from results of calls, and
`circuit_breaker` limits the calls in flight and waiting. They see endpoints as `Candidate`s, and
get `now` and random sources as arguments; `client.load_balancer` owns their state.

To add a balancing policy, write a `Balancer` in `policies`, add its name to `LoadBalancingPolicy`
and its settings to the parser, both in `meshtrio.grpc.service_config`, and make it in
`_BALANCERS`. Each priority of a channel has a balancer of its own.
"""
