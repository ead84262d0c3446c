"""The fixtures. Loaded in every run of pytest where wqfs is installed: so it imports what it needs when it is asked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wqfs.testing.mount import PrivateMount

REQUIRE = "WQFS_REQUIRE_MOUNT"
_MOUNTS = pytest.StashKey[list["PrivateMount"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("wqfs_timeout", "seconds that `expect` of the fixture wqfs waits (default 5)", default="5")
    parser.addini("wqfs_options", "mount options of the fixtures, as after -o", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "wqfs(options): mount options of the fixture wqfs, such as 'strict,enobufs'")
    config.stash[_MOUNTS] = []


def pytest_unconfigure(config: pytest.Config) -> None:
    """Whatever ended the run: no mount is left, and before pytest removes old temporary folders."""
    for mount in config.stash.get(_MOUNTS, []):
        mount.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The daemon's log belongs to the report of a test that failed."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        used = getattr(item, "funcargs", {})
        mounts = [(name, used[name]) for name in ("wqfs", "wqfs_session") if name in used]
        mounts += [("wqfs_factory", mount) for mount in getattr(used.get("wqfs_factory"), "mounts", ())]
        report.sections += [(f"log of {name}", mount.log) for name, mount in mounts]


def _missing() -> str:
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse is missing"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed (package fuse3)"
    return ""


def _make(config: pytest.Config, options: str) -> PrivateMount:
    missing = _missing()
    if missing:
        if os.environ.get(REQUIRE):
            pytest.fail(f"wqfs cannot be mounted, and {REQUIRE} is set: {missing}", pytrace=False)
        pytest.skip(f"wqfs cannot be mounted: {missing}")
    from wqfs.testing.mount import PrivateMount

    mount = PrivateMount(options, timeout=float(config.getini("wqfs_timeout")))
    config.stash[_MOUNTS].append(mount)
    return mount


def _end(config: pytest.Config, mount: PrivateMount) -> None:
    mount.close()
    config.stash[_MOUNTS].remove(mount)


class MountFactory:
    """The fixture wqfs_factory. mounts: what it has made."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.mounts: list[PrivateMount] = []

    def __call__(self, options: str = "") -> PrivateMount:
        """Mount in a temporary folder. options: as after -o."""
        self.mounts.append(_make(self._config, options))
        return self.mounts[-1]


@pytest.fixture
def wqfs_factory(pytestconfig: pytest.Config) -> Iterator[MountFactory]:
    """A function that mounts with options and returns the mount; all are gone at the end of the test."""
    make = MountFactory(pytestconfig)
    yield make
    for mount in make.mounts:
        _end(pytestconfig, mount)


@pytest.fixture
def wqfs(request: pytest.FixtureRequest) -> Iterator[PrivateMount]:
    """A private mount for this test, with the options of the marker `wqfs` or of the ini value wqfs_options."""
    marker = request.node.get_closest_marker("wqfs")
    options = marker.args[0] if marker and marker.args else request.config.getini("wqfs_options")
    mount = _make(request.config, options)
    yield mount
    _end(request.config, mount)


@pytest.fixture(scope="session")
def wqfs_session(pytestconfig: pytest.Config) -> Iterator[PrivateMount]:
    """One mount for all tests of this process, with the ini value wqfs_options."""
    mount = _make(pytestconfig, pytestconfig.getini("wqfs_options"))
    yield mount
    _end(pytestconfig, mount)
