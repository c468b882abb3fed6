"""Logging once per reason, and on a change of the reason."""

from __future__ import annotations

import logging

import pytest

from meshtrio.util.log_once import OncePerReasonLogger, ReasonChangeLogger

LOGGER = logging.getLogger("meshtrio.test")


def test_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    once = OncePerReasonLogger(LOGGER)
    for reason in ("a", "b", "a"):
        once.log(reason, "failed: %s", reason)
    assert caplog.messages == ["failed: a", "failed: b"]
    assert caplog.records[0].levelno == logging.WARNING


def test_the_number_of_reasons_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    once = OncePerReasonLogger(LOGGER, max_reasons=2)
    for reason in range(5):
        once.log(reason, "failed: %s", reason)
    assert caplog.messages == ["failed: 0", "failed: 1"]


def test_a_change_of_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger = ReasonChangeLogger(LOGGER, level=logging.ERROR)
    for reason in "aaba":
        logger.log(reason, "%s", reason)
    logger.reset()
    logger.log("a", "%s again", "a")
    assert caplog.messages == ["a", "b", "a", "a again"]
    assert caplog.records[0].levelno == logging.ERROR
