"""What a user may have of a table."""

from __future__ import annotations

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
