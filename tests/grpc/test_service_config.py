"""Parsing of service configs, and the errors of invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrio.grpc.outlier_detection import FailurePercentage, OutlierDetection
from meshtrio.grpc.service_config import (
    CircuitBreakerLimits,
    HedgingPolicy,
    LoadBalancingConfig,
    LoadBalancingPolicy,
    MethodConfig,
    RetryBudgetConfig,
    RetryPolicy,
    RetryThrottling,
    ServiceConfig,
    parse_service_config,
)
from meshtrio.util.backoff import Backoff
from meshtrio.util.errors import ConfigError

RETRY = {
    "maxAttempts": 4,
    "initialBackoff": ".1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
HEDGING = {"maxAttempts": 4, "hedgingDelay": ".5s", "nonFatalStatusCodes": ["unavailable", 13]}
PARSED = RetryPolicy(4, Backoff(0.1, 1.0, 2.0, 0.2), frozenset({14}))


def test_nothing_is_a_config_too() -> None:
    assert parse_service_config({}) == ServiceConfig()


def test_the_examples_of_the_grfc() -> None:
    config = parse_service_config(
        {
            "methodConfig": [
                {"name": [{"service": "a.B", "method": "C"}], "retryPolicy": RETRY},
                {"name": [{"service": "a.B"}], "hedgingPolicy": HEDGING, "timeout": "1.5s"},
                {"name": [{}], "waitForReady": False, "maxRequestMessageBytes": "1024"},
            ],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
            "healthCheckConfig": {"serviceName": "a.B"},
        }
    )
    assert config.get_method_config("a.B", "C") == MethodConfig(retry_policy=PARSED)
    hedging = HedgingPolicy(4, 0.5, frozenset({13, 14}))
    assert config.get_method_config("a.B", "D") == MethodConfig(timeout=1.5, hedging_policy=hedging)
    assert config.get_method_config("x.Y", "Z") == MethodConfig(
        wait_for_ready=False, max_request_message_bytes=1024
    )
    assert config.retry_throttling == RetryThrottling(10, 0.1)
    assert config.health_check_service == "a.B"


def balancing(*policies: dict[str, Any]) -> LoadBalancingConfig:
    return parse_service_config({"loadBalancingConfig": list(policies)}).load_balancing


def test_load_balancing_takes_the_first_it_knows() -> None:
    assert balancing({"grpclb": {}}, {"round_robin": {}}) == LoadBalancingConfig(
        LoadBalancingPolicy.ROUND_ROBIN
    )
    assert balancing({"pick_first": {}}).policy is LoadBalancingPolicy.PICK_FIRST
    assert balancing({"least_request_experimental": {"choiceCount": 3}}) == LoadBalancingConfig(
        choice_count=3
    )
    ring = {"ring_hash_experimental": {"requestHashHeader": "user", "minRingSize": 10}}
    assert balancing(ring) == LoadBalancingConfig(
        LoadBalancingPolicy.RING_HASH, request_hash_header="user", ring_size_range=(10, 4096)
    )


def test_outlier_detection_is_around_another_policy() -> None:
    found = balancing(
        {
            "outlier_detection_experimental": {
                "interval": "2s",
                "maxEjectionPercent": 50,
                "failurePercentageEjection": {"threshold": 40},
                "childPolicy": [{"round_robin": {}}],
            }
        }
    )
    assert found.policy is LoadBalancingPolicy.ROUND_ROBIN
    assert found.outlier_detection == OutlierDetection(
        interval=2.0, max_ejection_percent=50, failure_percentage=FailurePercentage(40)
    )


def test_what_grpc_has_no_words_for() -> None:
    config = parse_service_config(
        {"meshtrio": {"maxInFlight": 10, "maxPending": 0, "retryBudget": {"ratio": 0.1}}}
    )
    assert config.circuit_breakers == CircuitBreakerLimits(max_in_flight=10, max_pending=0)
    assert config.retry_budget == RetryBudgetConfig(ratio=0.1)


def method(**values: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], **values}]}


M = "service config.methodConfig[0]"
MISTAKES: dict[str, tuple[Any, str]] = {
    "no object": ([], "service config: must be an object, not []"),
    "unknown": (
        {"retryPolicy": {}},
        "service config.retryPolicy: is not a key that meshtrio knows; did you mean",
    ),
    "no list": ({"methodConfig": {}}, "service config.methodConfig: must be a list"),
    "no name": ({"methodConfig": [{}]}, f"{M}.name: is missing"),
    "method alone": (
        {"methodConfig": [{"name": [{"method": "x"}]}]},
        f"{M}.name[0].method: needs a service",
    ),
    "twice": ({"methodConfig": [{"name": [{}, {}]}]}, "a config of all methods already"),
    "timeout": (method(timeout=1.5), f'{M}.timeout: must be a duration in seconds like "1.5s"'),
    "negative": (method(timeout="-1s"), f"{M}.timeout: must be a duration"),
    "wait": (method(waitForReady=1), f"{M}.waitForReady: must be true or false, not 1"),
    "one attempt": (
        method(retryPolicy={**RETRY, "maxAttempts": 1}),
        f"{M}.retryPolicy.maxAttempts: must be a whole number, at least 2, not 1",
    ),
    "no codes": (
        method(retryPolicy={**RETRY, "retryableStatusCodes": []}),
        f"{M}.retryPolicy.retryableStatusCodes: must be a list of status codes",
    ),
    "no such code": (
        method(retryPolicy={**RETRY, "retryableStatusCodes": ["BUSY"]}),
        f"{M}.retryPolicy.retryableStatusCodes: must be status codes",
    ),
    "missing": (method(retryPolicy={}), f"{M}.retryPolicy.initialBackoff: is missing"),
    "typo": (
        method(retryPolicy={**RETRY, "maxAttempt": 3}),
        f"{M}.retryPolicy.maxAttempt: is not a key that meshtrio knows",
    ),
    "both": (
        method(retryPolicy=RETRY, hedgingPolicy=HEDGING),
        f"{M}: has a retryPolicy and a hedgingPolicy",
    ),
    "tokens": (
        {"retryThrottling": {"maxTokens": 1001, "tokenRatio": 1}},
        "retryThrottling.maxTokens: must be at most 1000, not 1001",
    ),
    "400 digits": (
        method(retryPolicy={**RETRY, "backoffMultiplier": 10**399}),
        f"{M}.retryPolicy.backoffMultiplier: must be a number above 0",
    ),
    "no policy": (
        {"loadBalancingConfig": [{"grpclb": {}}]},
        "loadBalancingConfig: names none of pick_first, round_robin",
    ),
    "two at once": (
        {"loadBalancingConfig": [{"pick_first": {}, "round_robin": {}}]},
        "loadBalancingConfig[0]: must name one policy, not 2",
    ),
    "percent": (
        {"loadBalancingConfig": [{"outlier_detection_experimental": {"maxEjectionPercent": 101}}]},
        "maxEjectionPercent: must be a whole number, between 0 and 100, not 101",
    ),
    "ring": (
        {"loadBalancingConfig": [{"ring_hash_experimental": {"minRingSize": 9999}}]},
        "minRingSize: is more than maxRingSize (4096)",
    ),
}


@pytest.mark.parametrize(("raw", "problem"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_with_their_place(raw: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_service_config(raw)
    assert problem in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_service_config({"x": 1, "methodConfig": [{"timeout": 1}], "retryThrottling": {}})
    assert len(caught.value.problems) == 5
