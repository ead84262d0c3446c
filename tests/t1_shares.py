"""What a user may have of a table, and warnings that a user cannot multiply."""

from __future__ import annotations

import logging

import pytest

from wqfs.fs.seldom import PAUSE_S, Seldom
from wqfs.fs.shares import Shares


def test_share_is_full_at_its_bound_for_its_user_alone() -> None:
    shares = Shares(2)
    for _ in range(2):
        assert not shares.full(1)
        shares.take(1)
    assert shares.full(1) and not shares.full(2)
    shares.give(1)
    assert not shares.full(1)


def test_share_keeps_nothing_of_who_has_nothing() -> None:
    shares = Shares(2)
    shares.take(1)
    shares.give(1)
    assert not shares


def test_warnings_beyond_one_a_pause_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    seldom = Seldom(logging.getLogger("wqfs.test"), lambda: now[0])
    for _ in range(1000):
        seldom.warning("refused %s", "it")
    assert caplog.messages == ["refused it"]
    now[0] = PAUSE_S
    seldom.warning("refused %s", "it")
    seldom.warning("refused %s", "it")
    assert caplog.messages == ["refused it", "refused it (999 more since the last of these lines)"]
