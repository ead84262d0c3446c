"""A restart of the units under a real systemd: the mount goes on, and nobody who uses it notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.booted import Machine
from tests.daemons import needs_resend
from tests.t5_booted_hardening import serve_as_user
from tests.t5_booted_service import UNITS, daemon_of, wait_for_reader
from tests.tools import wait_until

pytestmark = [needs_resend, pytest.mark.slow, pytest.mark.timeout(300)]

VERSION = "/usr/local/lib/wqfs/lib/python*/site-packages/wqfs/__init__.py"
AS_DAEMON = (
    'Environment="WQFS_OPTIONS=allow_other,user=daemon"',
    "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP",
    "SystemCallFilter=@setuid capset",
)


@contextmanager
def reader(machine: Machine, folder: str) -> Iterator[None]:
    """Somebody who waits for one record of the watch `kept`, and must get it within the block."""
    machine.run("mkdir", f"{folder}/watches/kept")
    machine.run(
        "systemd-run", "-q", "--unit=reader", "--remain-after-exit",
        "dd", f"if={folder}/watches/kept/queue", "of=/run/got", "count=1",
    )  # fmt: skip
    wait_for_reader(machine, folder)
    try:
        yield
        machine.run("wqfs", "post", "--mount", folder, "mount", "/dev/sdb1", "/mnt/data", "-t", "ext4")
        wait_until(lambda: machine.show("reader", "SubState") == "exited", "the reader's end")
        assert machine.show("reader", "ExecMainStatus") == "0"
        assert machine.run("stat", "-c", "%s", "/run/got") == "24\n"
    finally:
        machine.run("systemctl", "stop", "reader")


def goes_on(machine: Machine, unit: str) -> None:
    """What holds after a restart that nobody noticed."""
    folder = UNITS[unit]
    assert machine.mounts(folder) == ["fuse.wqfs"]
    assert machine.run("ls", f"{folder}/watches") == "kept\n"
    assert "goes on with the mount of before" in machine.journal(unit)
    wait_until(lambda: machine.show(unit, "NFileDescriptorStore") == "0", "the store to be empty")


@pytest.mark.parametrize("unit", UNITS)
def test_restart_goes_on_and_a_stop_unmounts(machine: Machine, unit: str) -> None:
    machine.run("systemctl", "start", unit)
    with reader(machine, UNITS[unit]):
        for _ in range(3):
            before = machine.main_pid(unit)
            machine.run("systemctl", "restart", unit)
            assert machine.main_pid(unit) != before
            goes_on(machine, unit)
    machine.run("systemctl", "stop", unit)
    assert machine.mounts(UNITS[unit]) == []
    assert machine.show(unit, "Result") == "success"
    machine.run("systemctl", "start", unit)
    assert machine.run("ls", f"{UNITS[unit]}/watches") == "", "a stop is the end of a mount"


def test_upgrade_goes_on(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    at_first = machine.run("wqfs", "--version")
    with reader(machine, "/run/wqfs"):
        machine.shell(f"sed -i.before 's/^__version__ = .*/__version__ = \"99.0\"/' {VERSION}")
        try:
            machine.run("systemctl", "restart", "wqfs.service")
            assert "99.0" in machine.run("wqfs", "--version") != at_first
            goes_on(machine, "wqfs.service")
        finally:
            machine.shell(f"for each in {VERSION}; do mv $each.before $each; done")


def test_daemon_of_a_restarted_service_may_be_killed(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    with reader(machine, "/run/wqfs"):
        machine.run("systemctl", "restart", "wqfs.service")
        machine.run("kill", "-KILL", daemon_of(machine, "wqfs.service"))
        goes_on(machine, "wqfs.service")


def test_server_that_is_another_user_goes_on(machine: Machine) -> None:
    unit = "wqfs@mnt-wqfs.service"
    machine.drop_in(unit, *AS_DAEMON)
    machine.run("systemctl", "start", unit)
    with reader(machine, UNITS[unit]):
        machine.run("systemctl", "restart", unit)
        goes_on(machine, unit)
        assert machine.run("ps", "-o", "user=", "-p", daemon_of(machine, unit)).strip() == "daemon"


def test_service_of_its_own_user_goes_on(machine: Machine) -> None:
    serve_as_user(machine)
    machine.run("systemctl", "start", "wqfs.service")
    with reader(machine, "/run/wqfs"):
        machine.run("systemctl", "restart", "wqfs.service")
        goes_on(machine, "wqfs.service")
        assert machine.run("ps", "-o", "user=", "-p", machine.main_pid("wqfs.service")).strip() == "wqfs"


def test_changed_options_hold_after_a_stop_and_a_start(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    machine.run("mkdir", "/run/wqfs/watches/kept")
    machine.drop_in("wqfs.service", "Environment=WQFS_OPTIONS=allow_other,max_watches=1")
    machine.run("systemctl", "restart", "wqfs.service")
    assert "max_watches as before, until it is mounted anew (stop, start)" in machine.journal("wqfs.service")
    machine.run("mkdir", "/run/wqfs/watches/two")
    machine.run("systemctl", "stop", "wqfs.service")
    machine.run("systemctl", "start", "wqfs.service")
    machine.run("mkdir", "/run/wqfs/watches/one")
    assert machine.ask("mkdir", "/run/wqfs/watches/two").returncode == 1


def test_next_one_that_cannot_start_is_a_new_mount_later(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    machine.run("mkdir", "/run/wqfs/watches/lost")
    machine.drop_in("wqfs.service", "Environment=WQFS_OPTIONS=dept=3", "Restart=no")
    assert machine.ask("systemctl", "restart", "wqfs.service").returncode == 1
    wait_until(lambda: machine.mounts("/run/wqfs") == [], "its end")
    machine.drop_in("wqfs.service", "Environment=WQFS_OPTIONS=allow_other")
    machine.run("systemctl", "start", "wqfs.service")
    assert machine.mounts("/run/wqfs") == ["fuse.wqfs"]
    assert machine.run("ls", "/run/wqfs/watches") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_stop_between_two_starts_unmounts(machine: Machine, unit: str) -> None:
    machine.run("systemctl", "start", unit)
    machine.drop_in(unit, "Environment=WQFS_OPTIONS=dept=3", "RestartSec=1h")
    machine.ask("systemctl", "restart", unit)
    assert machine.show(unit, "SubState") == "auto-restart"
    assert machine.mounts(UNITS[unit]) == ["fuse.wqfs"], "who uses it waits"
    machine.run("systemctl", "stop", unit)
    wait_until(lambda: machine.mounts(UNITS[unit]) == [], "its end")


def test_start_that_waits_and_is_called_off_unmounts(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    machine.run("tee", "/run/systemd/system/slow.service", text="[Service]\nType=oneshot\nExecStart=/bin/sleep 30\n")
    machine.run("mkdir", "-p", "/run/systemd/system/wqfs.service.d")
    slow = "[Unit]\nAfter=slow.service\nWants=slow.service\n"
    machine.run("tee", "/run/systemd/system/wqfs.service.d/slow.conf", text=slow)
    try:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "--no-block", "restart", "wqfs.service")
        wait_until(lambda: machine.show("wqfs.service", "NFileDescriptorStore") == "2", "the store to have it")
        machine.run("systemctl", "stop", "wqfs.service")
        wait_until(lambda: machine.mounts("/run/wqfs") == [], "its end")
    finally:
        machine.shell("systemctl stop slow; rm -r /run/systemd/system/slow.service /run/systemd/system/wqfs.service.d")


def test_what_else_is_mounted_there_by_then_stays(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    machine.shell("systemctl stop wqfs.service; mount -t tmpfs somebodys /run/wqfs")
    try:
        wait_until(lambda: machine.show("wqfs-left@wqfs.service", "ActiveState") == "inactive", "it to have looked")
        assert machine.mounts("/run/wqfs") == ["tmpfs"]
    finally:
        machine.run("umount", "/run/wqfs")


def test_mount_of_a_user_in_a_folder_of_their_own_is_unmounted_too(machine: Machine) -> None:
    unit = "wqfs@srv-private-events.service"
    serve_as_user(machine)
    machine.shell(f"""
        mkdir -p /srv/private/events /etc/systemd/system/{unit}.d
        chown -R wqfs /srv/private; chmod 700 /srv/private
        cp /usr/local/share/doc/wqfs/wqfs-user.conf /etc/systemd/system/{unit}.d/user.conf
    """)
    machine.drop_in(unit, "Environment=WQFS_OPTIONS=allow_other", "Restart=no")
    machine.run("systemctl", "start", unit)
    machine.drop_in(unit, "Environment=WQFS_OPTIONS=dept=3", "Restart=no")
    assert machine.ask("systemctl", "restart", unit).returncode == 1
    wait_until(lambda: machine.mounts("/srv/private/events") == [], "its end")


def test_service_of_ones_own_is_unmounted_too(machine: Machine) -> None:
    """As docs/how-to/service.md has it."""
    machine.shell("""
        sed 's|/run/wqfs|/run/my events|' /usr/local/lib/systemd/system/wqfs.service >/run/systemd/system/mine.service
        sed -i 's|^\\(Exec[A-Za-z]*=.*\\) /run/my events|\\1 "/run/my events"|' /run/systemd/system/mine.service
        systemctl daemon-reload
    """)
    try:
        machine.run("systemctl", "start", "mine.service")
        assert machine.mounts(r"/run/my\040events") == ["fuse.wqfs"]
        machine.shell("sed -i 's/allow_other/dept=3/; s/^Restart=.*/Restart=no/' /run/systemd/system/mine.service")
        machine.run("systemctl", "daemon-reload")
        assert machine.ask("systemctl", "restart", "mine.service").returncode == 1
        wait_until(lambda: machine.mounts(r"/run/my\040events") == [], "its end")
    finally:
        machine.shell("systemctl stop mine; rm /run/systemd/system/mine.service; systemctl daemon-reload")


def test_unit_whose_starts_are_used_up_unmounts(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    machine.drop_in("wqfs.service", "Environment=WQFS_OPTIONS=dept=3", "RestartSec=10ms", "[Unit]", "StartLimitBurst=5")
    machine.ask("systemctl", "restart", "wqfs.service")
    wait_until(lambda: machine.show("wqfs.service", "ActiveState") == "failed", "the limit")
    assert int(machine.show("wqfs.service", "NRestarts")) >= 3
    wait_until(lambda: machine.mounts("/run/wqfs") == [], "its end")


def test_service_that_has_no_successor_is_restarted_as_a_new_mount(machine: Machine) -> None:
    machine.drop_in("wqfs.service", "Environment=WQFS_OPTIONS=allow_other,nosurvive")
    machine.run("systemctl", "start", "wqfs.service")
    machine.run("mkdir", "/run/wqfs/watches/lost")
    machine.run("systemctl", "restart", "wqfs.service")
    assert "not handed over, and served on: its options have nosurvive" in machine.journal("wqfs.service")
    assert machine.mounts("/run/wqfs") == ["fuse.wqfs"]
    assert machine.run("ls", "/run/wqfs/watches") == ""
