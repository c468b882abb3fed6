"""A service config, and its parser for gRPC's JSON form.

Supported are: `methodConfig` with `timeout`, `waitForReady`, `maxRequestMessageBytes`,
`maxResponseMessageBytes`, `retryPolicy` and `hedgingPolicy`; `retryThrottling`;
`healthCheckConfig`; `loadBalancingConfig` with `pick_first`, `round_robin`,
`least_request_experimental`, `ring_hash_experimental` and `outlier_detection_experimental`.
Extensions of meshtrio are in the key `meshtrio`. Unknown keys are errors, because a retry policy
that is ignored would be worse.

Source: grpc/doc/service_config.md, gRFC A6, A21, A24, A42, A48, A50.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs

from meshtrio.grpc.status import StatusCode
from meshtrio.util.backoff import Backoff
from meshtrio.util.errors import ConfigError
from meshtrio.util.object_reader import (
    MismatchError,
    ObjectReader,
    integer_parser,
    number_parser,
    parse_boolean,
    parse_duration,
    parse_fraction,
    parse_string,
)
from meshtrio.util.record import FrozenRecord, Record

if TYPE_CHECKING:
    from meshtrio.grpc.outlier_detection import FailurePercentage, OutlierDetection, SuccessRate

_BACKOFF_JITTER = 0.2
"""Fraction by which the delays between retries vary (gRFC A6): 0.8 to 1.2 of their length."""


class LoadBalancingPolicy(Enum):
    """Load balancing policies, with their names in a service config."""

    PICK_FIRST = "pick_first"
    ROUND_ROBIN = "round_robin"
    LEAST_REQUEST = "least_request_experimental"
    RING_HASH = "ring_hash_experimental"


class LoadBalancingConfig(FrozenRecord):
    """How a channel picks the endpoint of a call."""

    policy: LoadBalancingPolicy = LoadBalancingPolicy.LEAST_REQUEST
    """The policy of the channel."""
    choice_count: int = 2
    """Number of endpoints that LEAST_REQUEST draws, of which it picks the least busy (gRFC A48)."""
    request_hash_header: str | None = None
    """Metadata key whose value RING_HASH hashes; None for a random hash (gRFC A76)."""
    ring_size_range: tuple[int, int] = (1024, 4096)
    """Minimum and maximum number of entries of RING_HASH's ring (gRFC A42)."""
    outlier_detection: OutlierDetection | None = None
    """Outlier detection of the channel; None if off."""


class RetryPolicy(FrozenRecord):
    """Sequential attempts: `retryPolicy` of a method config."""

    max_attempts: int
    """Maximum number of attempts, the first one included."""
    backoff: Backoff
    """Delays between attempts."""
    retryable_codes: frozenset[int]
    """Status codes after which another attempt may be made."""


class HedgingPolicy(FrozenRecord):
    """Concurrent attempts: `hedgingPolicy` of a method config."""

    max_attempts: int
    """Maximum number of attempts, the first one included."""
    hedging_delay: float
    """Seconds from the start of one attempt to the start of the next."""
    non_fatal_codes: frozenset[int]
    """Status codes that start the next attempt at once; any other ends the call."""


class RetryThrottling(FrozenRecord):
    """Limits retries while a server is failing: `retryThrottling` of a service config."""

    max_tokens: float
    """Initial and maximum number of tokens; retries stop at half of it."""
    token_ratio: float
    """Tokens that each successful call adds. A failed call takes one."""


class RetryBudgetConfig(FrozenRecord):
    """Limits the share of retries in a service's load: `meshtrio.retryBudget`."""

    ratio: float = 0.2
    """Retries that each call allows."""
    min_per_second: float = 10.0
    """Retries allowed per second in addition, so that services with few calls can retry."""


@attrs.frozen(eq=False, repr=False)
class MethodConfig(Record):
    """Parameters of the calls of some methods; None leaves one to the caller."""

    timeout: float | None = None
    """Maximum seconds of a call; the caller's deadline still applies if it is earlier."""
    wait_for_ready: bool | None = None
    """Whether calls wait for an endpoint, rather than fail while there is none."""
    max_request_message_bytes: int | None = None
    """Maximum size of a sent message, in bytes before compression."""
    max_response_message_bytes: int | None = None
    """Maximum size of a received message, in bytes after decompression."""
    retry_policy: RetryPolicy | None = None
    """Retries of the calls; excludes `hedging_policy`."""
    hedging_policy: HedgingPolicy | None = None
    """Hedging of the calls; excludes `retry_policy`."""
    can_use_fast_path: bool = attrs.field(init=False)
    """Whether a call needs neither a timeout scope nor concurrent attempts."""
    is_default: bool = attrs.field(init=False, eq=False, repr=False)
    """Whether a call needs no retry policy either."""

    def __attrs_post_init__(self) -> None:
        can_use_fast_path = self.timeout is None and self.hedging_policy is None
        object.__setattr__(self, "can_use_fast_path", can_use_fast_path)
        object.__setattr__(self, "is_default", can_use_fast_path and self.retry_policy is None)


class CircuitBreakerLimits(FrozenRecord):
    """Limits above which the calls of a channel fail at once, with RESOURCE_EXHAUSTED."""

    max_in_flight: int | None = None
    """Maximum number of calls that have an endpoint."""
    max_in_flight_per_endpoint: int | None = None
    """Maximum number of calls that have the same endpoint."""
    max_pending: int | None = None
    """Maximum number of calls that wait for an endpoint."""


@attrs.frozen(eq=False, repr=False)
class ServiceConfig(Record):
    """Parameters of a channel and its calls."""

    method_configs: Mapping[str, MethodConfig] = attrs.field(factory=dict)
    """Parameters of methods, by "pkg.Service/Method", "pkg.Service/" for the other methods of a
    service, and "" for all others."""
    retry_throttling: RetryThrottling | None = None
    """Throttling of retries while calls fail; None if off."""
    load_balancing: LoadBalancingConfig = attrs.field(factory=LoadBalancingConfig)
    """How endpoints are picked."""
    health_check_service: str | None = None
    """Service whose health is watched on each connection (gRFC A17); None for no watch."""
    circuit_breakers: CircuitBreakerLimits = attrs.field(factory=CircuitBreakerLimits)
    """Limits above which calls fail at once."""
    retry_budget: RetryBudgetConfig = attrs.field(factory=RetryBudgetConfig)
    """Bound on the retries of all calls."""

    def get_method_config(self, service: str, name: str) -> MethodConfig:
        """Return the config of a method: its own, that of its service, or that of all methods."""
        keys = (f"{service}/{name}", f"{service}/", "")
        found = (self.method_configs[key] for key in keys if key in self.method_configs)
        return next(found, _DEFAULT_METHOD_CONFIG)


_DEFAULT_METHOD_CONFIG = MethodConfig()


def parse_service_config(raw: Any) -> ServiceConfig:
    """Parse a service config, as `json.loads` returns it. Raises ConfigError with all errors."""
    errors: list[str] = []
    fields = ObjectReader(raw, "service config", errors)
    methods: dict[str, MethodConfig] = {}
    for method_config in fields.object_readers("methodConfig"):
        _read_method_config(method_config, methods)
    throttling = fields.read_object("retryThrottling", _read_retry_throttling)
    candidates = fields.object_readers("loadBalancingConfig")
    health = fields.read_object(
        "healthCheckConfig", lambda f: f.get("serviceName", parse_string, "")
    )
    circuit_breakers, retry_budget = fields.read_object("meshtrio", _read_extensions) or (
        CircuitBreakerLimits(),
        RetryBudgetConfig(),
    )
    fields.reject_unknown_keys()
    balancing = _read_load_balancing(candidates, fields) if candidates else LoadBalancingConfig()
    if errors:
        raise ConfigError(errors)
    return ServiceConfig(methods, throttling, balancing, health, circuit_breakers, retry_budget)


def _read_method_config(fields: ObjectReader, methods: dict[str, MethodConfig]) -> None:
    config = MethodConfig(
        timeout=fields.get("timeout", parse_duration),
        wait_for_ready=fields.get("waitForReady", parse_boolean),
        max_request_message_bytes=fields.get("maxRequestMessageBytes", integer_parser(0)),
        max_response_message_bytes=fields.get("maxResponseMessageBytes", integer_parser(0)),
        retry_policy=fields.read_object("retryPolicy", _read_retry_policy),
        hedging_policy=fields.read_object("hedgingPolicy", _read_hedging_policy),
    )
    if config.retry_policy is not None and config.hedging_policy is not None:
        fields.add_error("", "has a retryPolicy and a hedgingPolicy; a method can have one of them")
    names = fields.object_readers("name")
    if not names:
        fields.add_error("name", "is missing: a list of {service, method}, {} for all methods")
    for name in names:
        service = name.get("service", parse_string, "")
        method = name.get("method", parse_string, "")
        name.reject_unknown_keys()
        key = f"{service}/{method}" if service else ""
        if method and not service:
            name.add_error("method", "needs a service")
        elif key in methods:
            name.add_error("", f"there is a config of {key or 'all methods'} already")
        methods[key] = config
    fields.reject_unknown_keys()


def _read_retry_policy(fields: ObjectReader) -> RetryPolicy:
    initial = fields.get("initialBackoff", parse_duration, 0.0, required=True)
    maximum = fields.get("maxBackoff", parse_duration, 0.0, required=True)
    multiplier = fields.get("backoffMultiplier", number_parser(0), 1.0, required=True)
    max_attempts = fields.get("maxAttempts", integer_parser(2), 2, required=True)
    codes = fields.get("retryableStatusCodes", _parse_status_codes, frozenset(), required=True)
    backoff = Backoff(initial, maximum, max(multiplier, 1.0), _BACKOFF_JITTER)
    return RetryPolicy(max_attempts, backoff, codes)


def _read_hedging_policy(fields: ObjectReader) -> HedgingPolicy:
    return HedgingPolicy(
        max_attempts=fields.get("maxAttempts", integer_parser(2), 2, required=True),
        hedging_delay=fields.get("hedgingDelay", parse_duration, 0.0),
        non_fatal_codes=fields.get("nonFatalStatusCodes", _parse_status_codes, frozenset()),
    )


def _read_retry_throttling(fields: ObjectReader) -> RetryThrottling:
    max_tokens = fields.get("maxTokens", number_parser(0, 1000), 1.0, required=True)
    token_ratio = fields.get("tokenRatio", number_parser(0), 1.0, required=True)
    # Three decimal places count (gRFC A6).
    return RetryThrottling(max_tokens, token_ratio=int(token_ratio * 1000) / 1000)


def _read_extensions(fields: ObjectReader) -> tuple[CircuitBreakerLimits, RetryBudgetConfig]:
    circuit_breakers = CircuitBreakerLimits(
        fields.get("maxInFlight", integer_parser(1)),
        fields.get("maxInFlightPerEndpoint", integer_parser(1)),
        fields.get("maxPending", integer_parser(0)),
    )
    retry_budget = fields.read_object(
        "retryBudget",
        lambda f: RetryBudgetConfig(
            f.get("ratio", parse_fraction, 0.2),
            f.get("minPerSecond", number_parser(0, inclusive=True), 10.0),
        ),
    )
    return circuit_breakers, retry_budget or RetryBudgetConfig()


def _read_load_balancing(policies: list[ObjectReader], parent: ObjectReader) -> LoadBalancingConfig:
    """Read the first known policy of a list (gRFC A24)."""
    for policy in policies:
        names = policy.keys()
        if len(names) != 1:
            policy.add_error("", f"must name one policy, not {len(names)}")
            return LoadBalancingConfig()
        read = _POLICY_READERS.get(names[0])
        if read is not None:
            return policy.read_object(names[0], read) or LoadBalancingConfig()
    parent.add_error("loadBalancingConfig", f"names none of {', '.join(_POLICY_READERS)}")
    return LoadBalancingConfig()


def _read_ring_hash(fields: ObjectReader) -> LoadBalancingConfig:
    minimum = fields.get("minRingSize", integer_parser(1), 1024)
    maximum = fields.get("maxRingSize", integer_parser(1), 4096)
    header = fields.get("requestHashHeader", parse_string, None)
    if minimum > maximum:
        fields.add_error("minRingSize", f"is more than maxRingSize ({maximum})")
    if header is not None and header.endswith("-bin"):
        fields.add_error("requestHashHeader", "may not be binary metadata (-bin)")
    return LoadBalancingConfig(
        LoadBalancingPolicy.RING_HASH,
        request_hash_header=header,
        ring_size_range=(minimum, maximum),
    )


def _read_outlier_detection(fields: ObjectReader) -> LoadBalancingConfig:
    from meshtrio.grpc.outlier_detection import OutlierDetection  # Few services have it.

    outlier_detection = OutlierDetection(
        interval=fields.get("interval", parse_duration, 10.0),
        base_ejection_time=fields.get("baseEjectionTime", parse_duration, 30.0),
        max_ejection_time=fields.get("maxEjectionTime", parse_duration, 300.0),
        max_ejection_percent=fields.get("maxEjectionPercent", integer_parser(0, 100), 10),
        success_rate=fields.read_object("successRateEjection", _read_success_rate),
        failure_percentage=fields.read_object("failurePercentageEjection", _read_failures),
        consecutive_failures=fields.get("consecutiveFailures", integer_parser(1)),
    )
    children = fields.object_readers("childPolicy")
    child = _read_load_balancing(children, fields) if children else LoadBalancingConfig()
    return child.replace(outlier_detection=outlier_detection)


def _read_success_rate(fields: ObjectReader) -> SuccessRate:
    from meshtrio.grpc.outlier_detection import SuccessRate

    return SuccessRate(
        stdev_factor=fields.get("stdevFactor", integer_parser(0), 1900) / 1000,
        enforcement_percentage=fields.get("enforcementPercentage", integer_parser(0, 100), 100),
        minimum_hosts=fields.get("minimumHosts", integer_parser(0), 5),
        request_volume=fields.get("requestVolume", integer_parser(1), 100),
    )


def _read_failures(fields: ObjectReader) -> FailurePercentage:
    from meshtrio.grpc.outlier_detection import FailurePercentage

    return FailurePercentage(
        threshold=fields.get("threshold", integer_parser(0, 100), 85),
        enforcement_percentage=fields.get("enforcementPercentage", integer_parser(0, 100), 100),
        minimum_hosts=fields.get("minimumHosts", integer_parser(0), 5),
        request_volume=fields.get("requestVolume", integer_parser(1), 50),
    )


_POLICY_READERS = {
    "pick_first": lambda fields: LoadBalancingConfig(LoadBalancingPolicy.PICK_FIRST),
    "round_robin": lambda fields: LoadBalancingConfig(LoadBalancingPolicy.ROUND_ROBIN),
    "least_request_experimental": lambda fields: LoadBalancingConfig(
        choice_count=min(fields.get("choiceCount", integer_parser(2), 2), 10)
    ),
    "ring_hash_experimental": _read_ring_hash,
    "outlier_detection_experimental": _read_outlier_detection,
}


def _parse_status_codes(raw: Any) -> frozenset[int]:
    """Parse a list of at least one status code, by name or number."""
    if not isinstance(raw, list) or not raw:
        raise MismatchError("must be a list of status codes")
    return frozenset(map(_parse_status_code, raw))


def _parse_status_code(raw: Any) -> int:
    if isinstance(raw, str) and raw.upper() in StatusCode.__members__:
        return StatusCode[raw.upper()].value
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < len(StatusCode):
        return raw
    raise MismatchError('must be status codes like "UNAVAILABLE"')
