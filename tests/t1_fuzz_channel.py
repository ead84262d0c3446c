"""Hostile FUSE requests in front of a channel: tests/fuzz/channel.py for a moment, a minute in the slow layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.fuzz import channel, deaths


@pytest.fixture(autouse=True)
def without_log() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_channel_answers_hostile_requests_as_documented() -> None:
    sent, answers = channel.fuzz(seed=1, seconds=0, count=20_000)
    assert sent == 20_000
    assert {"ok", "EINVAL", "EIO", "EAGAIN", "EINTR", "ENOMEM", "EBUSY"} <= set(answers), "the dice are too tame"


def test_conversation_is_the_same_again() -> None:
    assert channel.conversation(7, 500) == channel.conversation(7, 500)


def test_successor_is_what_the_daemon_was() -> None:
    assert sum(deaths.death(seed) for seed in range(30)) > 1000


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_successor_is_what_the_daemon_was_after_many_conversations() -> None:
    for seed in range(30, 500):
        deaths.death(seed)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_channel_answers_hostile_requests_for_a_minute() -> None:
    sent, _ = channel.fuzz(seed=1_000_000, seconds=60, count=None)
    assert sent > 100_000
