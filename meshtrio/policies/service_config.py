"""A service's config in gRPC's JSON form (grpc/doc/service_config.md, gRFC A6, A21, A24, A50).

What of it is used here: `methodConfig` with `timeout`, `waitForReady`, `maxRequestMessageBytes`,
`maxResponseMessageBytes`, `retryPolicy` and `hedgingPolicy`; `retryThrottling`;
`healthCheckConfig`; `loadBalancingConfig` with `pick_first`, `round_robin`,
`least_request_experimental`, `ring_hash_experimental` and `outlier_detection_experimental`.
What gRPC has no words for is in the key `meshtrio`. Unknown keys are mistakes: a retry policy that
is not read would be worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import attrs

from meshtrio.backoff import Backoff
from meshtrio.errors import ConfigError
from meshtrio.policies.fields import (
    Fields,
    codes,
    duration,
    fraction,
    integer,
    number,
    text,
    truth,
)
from meshtrio.policies.outlier import FailurePercentage, OutlierDetection, SuccessRate
from meshtrio.policies.retry import BudgetConfig, HedgingPolicy, RetryPolicy, Throttling

_JITTER = 0.2
"""A6's: delays are spread over 0.8 to 1.2 of their length."""


class Balancing(Enum):
    PICK_FIRST = "pick_first"
    ROUND_ROBIN = "round_robin"
    LEAST_REQUEST = "least_request_experimental"
    RING_HASH = "ring_hash_experimental"


@attrs.frozen
class LoadBalancing:
    """How endpoints are chosen."""

    policy: Balancing = Balancing.LEAST_REQUEST
    choices: int = 2
    """Endpoints that LEAST_REQUEST draws."""
    hash_header: str | None = None
    """The metadata key whose value RING_HASH goes by."""
    ring_sizes: tuple[int, int] = (1024, 4096)
    outliers: OutlierDetection | None = None


@attrs.frozen
class MethodConfig:
    """What holds for the calls of some methods. None leaves it to the caller."""

    timeout: float | None = None
    """Seconds that a call may take at most, however much time its caller has."""
    wait_for_ready: bool | None = None
    max_request: int | None = None
    """Bytes of a message that is sent, before compression."""
    max_response: int | None = None
    """Bytes of a message that is received, after decompression."""
    retry: RetryPolicy | None = None
    hedging: HedgingPolicy | None = None
    is_plain: bool = attrs.field(init=False, eq=False, repr=False)
    """Nothing of it needs more than one attempt after the other."""

    def __attrs_post_init__(self) -> None:
        plain = self.timeout is None and self.hedging is None
        object.__setattr__(self, "is_plain", plain)


@attrs.frozen
class Bounds:
    """Circuit breaking: what is above them fails with RESOURCE_EXHAUSTED at once."""

    max_in_flight: int | None = None
    """Calls of a channel that have an endpoint."""
    max_in_flight_per_endpoint: int | None = None
    max_pending: int | None = None
    """Calls of a channel that wait for an endpoint."""


@attrs.frozen
class ServiceConfig:
    """A whole one. `methods` go by "pkg.Service/Method", "pkg.Service/", and "" for all."""

    methods: Mapping[str, MethodConfig] = attrs.field(factory=dict)
    throttling: Throttling | None = None
    balancing: LoadBalancing = attrs.field(factory=LoadBalancing)
    health_service: str | None = None
    """Whose health is watched on each connection, None for nobody's (gRFC A17)."""
    bounds: Bounds = attrs.field(factory=Bounds)
    budget: BudgetConfig = attrs.field(factory=BudgetConfig)

    def method(self, service: str, name: str) -> MethodConfig:
        """The config of a method: its own, its service's, or that of all."""
        for key in (f"{service}/{name}", f"{service}/", ""):
            found = self.methods.get(key)
            if found is not None:
                return found
        return _PLAIN


_PLAIN = MethodConfig()


def parse(raw: Any) -> ServiceConfig:
    """Read what `json.loads` gave. Raises ConfigError with every mistake."""
    problems: list[str] = []
    fields = Fields(raw, "service config", problems)
    methods: dict[str, MethodConfig] = {}
    for each in fields.objects("methodConfig"):
        _method(each, methods)
    throttling = fields.object("retryThrottling", _throttling)
    candidates = fields.objects("loadBalancingConfig")
    health = fields.object("healthCheckConfig", lambda f: f.take("serviceName", text, ""))
    bounds, budget = fields.object("meshtrio", _own) or (Bounds(), BudgetConfig())
    fields.finish()
    balancing = _balancing(candidates, fields) if candidates else LoadBalancing()
    if problems:
        raise ConfigError(problems)
    return ServiceConfig(methods, throttling, balancing, health, bounds, budget)


def _method(fields: Fields, methods: dict[str, MethodConfig]) -> None:
    config = MethodConfig(
        timeout=fields.take("timeout", duration),
        wait_for_ready=fields.take("waitForReady", truth),
        max_request=fields.take("maxRequestMessageBytes", integer(0)),
        max_response=fields.take("maxResponseMessageBytes", integer(0)),
        retry=fields.object("retryPolicy", _retry),
        hedging=fields.object("hedgingPolicy", _hedging),
    )
    if config.retry is not None and config.hedging is not None:
        fields.problem("", "has a retryPolicy and a hedgingPolicy; a method can have one of them")
    names = fields.objects("name")
    if not names:
        fields.problem("name", "is missing: a list of {service, method}, {} for all methods")
    for name in names:
        service, method = name.take("service", text, ""), name.take("method", text, "")
        name.finish()
        key = f"{service}/{method}" if service else ""
        if method and not service:
            name.problem("method", "needs a service")
        elif key in methods:
            name.problem("", f"there is a config of {key or 'all methods'} already")
        methods[key] = config
    fields.finish()


def _retry(fields: Fields) -> RetryPolicy:
    initial = fields.take("initialBackoff", duration, required=True) or 0.0
    maximum = fields.take("maxBackoff", duration, required=True) or 0.0
    multiplier = fields.take("backoffMultiplier", number(0), required=True) or 1.0
    return RetryPolicy(
        max_attempts=fields.take("maxAttempts", integer(2), required=True) or 2,
        backoff=Backoff(initial, maximum, max(multiplier, 1.0), _JITTER),
        codes=fields.take("retryableStatusCodes", codes, required=True) or frozenset(),
    )


def _hedging(fields: Fields) -> HedgingPolicy:
    return HedgingPolicy(
        max_attempts=fields.take("maxAttempts", integer(2), required=True) or 2,
        delay=fields.take("hedgingDelay", duration, 0.0),
        non_fatal=fields.take("nonFatalStatusCodes", codes, frozenset()),
    )


def _throttling(fields: Fields) -> Throttling:
    return Throttling(
        max_tokens=fields.take("maxTokens", number(0, 1000), required=True) or 1.0,
        # A6: three decimal places count.
        token_ratio=int((fields.take("tokenRatio", number(0), required=True) or 1.0) * 1000) / 1000,
    )


def _own(fields: Fields) -> tuple[Bounds, BudgetConfig]:
    bounds = Bounds(
        fields.take("maxInFlight", integer(1)),
        fields.take("maxInFlightPerEndpoint", integer(1)),
        fields.take("maxPending", integer(0)),
    )
    budget = fields.object(
        "retryBudget",
        lambda f: BudgetConfig(
            f.take("ratio", fraction, 0.2), f.take("minPerSecond", number(0, zero=True), 10.0)
        ),
    )
    return bounds, budget or BudgetConfig()


def _balancing(candidates: list[Fields], where: Fields) -> LoadBalancing:
    """The first policy of the list that is known (gRFC A24)."""
    for candidate in candidates:
        names = candidate.names()
        if len(names) != 1:
            candidate.problem("", f"must name one policy, not {len(names)}")
            return LoadBalancing()
        read = _POLICIES.get(names[0])
        if read is not None:
            return candidate.object(names[0], read) or LoadBalancing()
    where.problem("loadBalancingConfig", f"names none of {', '.join(_POLICIES)}")
    return LoadBalancing()


def _least_request(fields: Fields) -> LoadBalancing:
    return LoadBalancing(choices=min(fields.take("choiceCount", integer(2), 2), 10))


def _ring_hash(fields: Fields) -> LoadBalancing:
    least = fields.take("minRingSize", integer(1), 1024)
    most = fields.take("maxRingSize", integer(1), 4096)
    header = fields.take("requestHashHeader", text, None)
    if least > most:
        fields.problem("minRingSize", f"is more than maxRingSize ({most})")
    if header is not None and header.endswith("-bin"):
        fields.problem("requestHashHeader", "may not be binary metadata (-bin)")
    return LoadBalancing(Balancing.RING_HASH, hash_header=header, ring_sizes=(least, most))


def _outliers(fields: Fields) -> LoadBalancing:
    base = fields.take("baseEjectionTime", duration, 30.0)
    outliers = OutlierDetection(
        interval=fields.take("interval", duration, 10.0),
        base_ejection_time=base,
        max_ejection_time=fields.take("maxEjectionTime", duration, max(300.0, base)),
        max_ejection_percent=fields.take("maxEjectionPercent", integer(0, 100), 10),
        success_rate=fields.object("successRateEjection", _success_rate),
        failure_percentage=fields.object("failurePercentageEjection", _failure_percentage),
        consecutive_failures=fields.take("consecutiveFailures", integer(1)),
    )
    children = fields.objects("childPolicy")
    child = _balancing(children, fields) if children else LoadBalancing()
    return attrs.evolve(child, outliers=outliers)


def _success_rate(fields: Fields) -> SuccessRate:
    return SuccessRate(
        stdev_factor=fields.take("stdevFactor", integer(0), 1900) / 1000,
        enforcement_percentage=fields.take("enforcementPercentage", integer(0, 100), 100),
        minimum_hosts=fields.take("minimumHosts", integer(0), 5),
        request_volume=fields.take("requestVolume", integer(1), 100),
    )


def _failure_percentage(fields: Fields) -> FailurePercentage:
    return FailurePercentage(
        threshold=fields.take("threshold", integer(0, 100), 85),
        enforcement_percentage=fields.take("enforcementPercentage", integer(0, 100), 100),
        minimum_hosts=fields.take("minimumHosts", integer(0), 5),
        request_volume=fields.take("requestVolume", integer(1), 50),
    )


_POLICIES = {
    "pick_first": lambda fields: LoadBalancing(Balancing.PICK_FIRST),
    "round_robin": lambda fields: LoadBalancing(Balancing.ROUND_ROBIN),
    "least_request_experimental": _least_request,
    "ring_hash_experimental": _ring_hash,
    "outlier_detection_experimental": _outliers,
}
