"""Modules of messages, which are made when they are first used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from meshtrio import messages


def test_another_thread_never_sees_a_module_before_it_is_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def make_request() -> Any:
        return messages.health.HealthCheckRequest(service="a")

    def get_while_another_thread_loads(descriptor: Any) -> Any:
        monkeypatch.setattr(messages, "GetMessageClass", GetMessageClass)
        with ThreadPoolExecutor(1) as other_thread:
            seen.append(other_thread.submit(make_request).result())
        return GetMessageClass(descriptor)

    monkeypatch.delitem(vars(messages), "health", raising=False)
    monkeypatch.setattr(messages, "GetMessageClass", get_while_another_thread_loads)
    assert [make_request()] == seen


@pytest.mark.parametrize("name", ["no_such", "n" * 300], ids=len)
def test_a_name_without_a_file_is_no_attribute(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'meshtrio.messages' has no attribute '{name}'"):
        getattr(messages, name)


def test_a_class_is_made_when_it_is_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(messages), "control", raising=False)
    control = messages.control
    assert "ListInstancesRequest" not in vars(control)
    made = control.ListInstancesRequest
    assert made is control.ListInstancesRequest is vars(control)["ListInstancesRequest"]
    assert made.DESCRIPTOR.file is control.DESCRIPTOR


@pytest.mark.parametrize("name", ["registry", "control", "metrics", "reflection_v1alpha"])
def test_a_module_has_all_messages_of_its_file(name: str) -> None:
    module = getattr(messages, name)
    kinds = module.DESCRIPTOR.message_types_by_name
    assert kinds
    for kind, descriptor in kinds.items():
        assert getattr(module, kind)().DESCRIPTOR is descriptor


def test_an_unknown_message_is_no_attribute() -> None:
    text = "module 'meshtrio.messages.health' has no attribute 'NoSuchRequest'"
    with pytest.raises(AttributeError, match=text):
        messages.health.NoSuchRequest  # type: ignore[attr-defined]  # noqa: B018
