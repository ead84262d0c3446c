"""A fault in a name operation costs that operation and nothing else."""

from __future__ import annotations

import errno

import pyfuse3
import pytest
import trio

from wqfs.fs.names import Names

PLUMBING = {"close_directories", "forget", "init", "keep_listings", "kept_listings", "stacktrace"}


def test_fault_in_a_name_operation_is_eio_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    names = Names.__new__(Names)  # without a filesystem every operation fails

    async def lookup() -> None:
        await names.lookup(
            pyfuse3.InodeT(1), pyfuse3.FileNameT(b"x"), pyfuse3.RequestContext.__new__(pyfuse3.RequestContext)
        )

    names._find = None  # type: ignore[method-assign,assignment]
    with pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(lookup)
    assert caught.value.errno == errno.EIO
    assert "lookup failed" in caplog.text and "Traceback" in caplog.text


def test_every_name_operation_of_ours_is_guarded() -> None:
    ours = {name for name, value in vars(Names).items() if callable(value) and not name.startswith("_")}
    unguarded = {name for name in ours - PLUMBING if not hasattr(getattr(Names, name), "__wrapped__")}
    assert not unguarded
