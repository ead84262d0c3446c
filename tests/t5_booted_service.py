"""The units, run by a real systemd as process 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.booted import Machine, booted
from tests.tools import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


UNITS = {"wqfs.service": "/run/wqfs", "wqfs@mnt-wqfs.service": "/mnt/wqfs"}


def wait_for_reader(machine: Machine, folder: str) -> None:
    wait_until(lambda: "wqfs_waiting_readers 1" in machine.run("cat", f"{folder}/metrics"), "a reader that waits")


def wait_for_restart(machine: Machine, unit: str, count: int) -> None:
    wait_until(
        lambda: machine.show(unit, "NRestarts") == str(count) and machine.show(unit, "ActiveState") == "active",
        f"restart {count} of {unit}",
    )


def daemon_of(machine: Machine, unit: str) -> str:
    """The pid of the daemon, whose supervisor is the main process."""
    return machine.run("pgrep", "-x", "wqfs", "-P", machine.main_pid(unit)).strip()


def test_start_returns_when_the_mount_answers_and_all_users_have_it(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    assert machine.mounts("/run/wqfs") == ["fuse.wqfs"]
    assert machine.show("wqfs.service", "StatusText") == "mounted at /run/wqfs"
    said = machine.shell(
        "cd /run/wqfs; mkdir watches/mine; stat -c %U:%a watches/mine; cat sim/mountinfo",
        user="daemon",
    )
    assert said.startswith("daemon:700\n")
    machine.run("wqfs", "post", "mount", "/dev/sdb1", "/mnt/data", "-t", "ext4")
    assert '"new_mount"' in machine.run("cat", "/run/wqfs/watches/mine/log", user="daemon")
    pid = machine.main_pid("wqfs.service")
    assert machine.run("readlink", f"/proc/{pid}/ns/mnt") == machine.run("readlink", "/proc/1/ns/mnt")


def test_instance_mounts_at_its_name(machine: Machine) -> None:
    unit = machine.run("systemd-escape", "--path", "--template=wqfs@.service", "/mnt/a-b c").strip()
    machine.drop_in(unit, 'Environment="WQFS_OPTIONS=allow_other,max_watches=1"')
    machine.run("systemctl", "start", unit)
    assert machine.mounts("/mnt/a-b\\040c") == ["fuse.wqfs"]
    done = machine.ask("mkdir", "/mnt/a-b c/watches/one", "/mnt/a-b c/watches/two", user="daemon")
    assert (done.returncode, "two" in done.stderr, "quota" in done.stderr) == (1, True, True)
    machine.run("systemctl", "stop", unit)
    assert machine.mounts("/mnt/a-b\\040c") == []


@pytest.mark.parametrize("unit", UNITS)
def test_stop_is_clean_and_waiting_readers_find_end_of_file(machine: Machine, unit: str) -> None:
    folder = UNITS[unit]
    machine.run("systemctl", "start", unit)
    machine.run("systemd-run", "-q", "--unit=reader", "--remain-after-exit", "cat", f"{folder}/queue")
    wait_for_reader(machine, folder)
    try:
        machine.run("systemctl", "stop", unit)
        assert [machine.show(unit, name) for name in ("ActiveState", "Result", "ExecMainStatus")] == [
            "inactive", "success", "0",
        ]  # fmt: skip
        assert machine.mounts(folder) == []
        wait_until(lambda: machine.show("reader", "SubState") == "exited", "the reader's end")
        assert machine.show("reader", "ExecMainStatus") == "0"
    finally:
        machine.run("systemctl", "stop", "reader")


def test_stop_of_a_frozen_daemon_ends_and_leaves_no_mount(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    machine.run("kill", "-STOP", daemon_of(machine, "wqfs.service"))
    machine.run("systemd-run", "-q", "--unit=stuck", "cat", "/run/wqfs/metrics")  # waits for the frozen one
    machine.run("systemctl", "stop", "wqfs.service", limit=60)
    assert machine.show("wqfs.service", "ActiveState") in ("inactive", "failed")
    assert machine.mounts("/run/wqfs") == []
    wait_until(lambda: machine.show("stuck", "ActiveState") != "active", "the end of who waited")


def test_frozen_daemon_is_ended_with_a_traceback_and_started_anew(machine: Machine) -> None:
    machine.drop_in("wqfs.service", "WatchdogSec=1")
    machine.run("systemctl", "start", "wqfs.service")
    machine.run("kill", "-STOP", daemon_of(machine, "wqfs.service"))
    wait_for_restart(machine, "wqfs.service", 1)
    journal = machine.journal("wqfs.service")
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal
    assert re.search(r"wqfs/fs/device.py\", line \d+ in _serve_for", journal)
    assert machine.mounts("/run/wqfs") == ["fuse.wqfs"]
    machine.run("cat", "/run/wqfs/metrics")


def test_watchdog_leaves_a_mount_alone_that_answers(machine: Machine) -> None:
    machine.drop_in("wqfs.service", "WatchdogSec=1")
    machine.run("systemctl", "start", "wqfs.service")
    at_first = int(machine.show("wqfs.service", "WatchdogTimestampMonotonic"))
    wait_until(
        lambda: int(machine.show("wqfs.service", "WatchdogTimestampMonotonic")) > at_first + 2_000_000,
        "being fed for 2 s",
    )
    assert machine.show("wqfs.service", "NRestarts") == "0"


@pytest.mark.parametrize("unit", UNITS)
def test_killed_daemon_has_a_successor_and_the_service_goes_on(machine: Machine, unit: str) -> None:
    folder = UNITS[unit]
    machine.run("systemctl", "start", unit)
    machine.run("mkdir", f"{folder}/watches/kept")
    main = machine.main_pid(unit)
    machine.run(
        "systemd-run", "-q", "--unit=reader", "--remain-after-exit", "dd", f"if={folder}/watches/kept/queue", "count=1"
    )
    wait_for_reader(machine, folder)
    try:
        machine.run("kill", "-KILL", daemon_of(machine, unit))
        machine.run("wqfs", "post", "--mount", folder, "mount", "/dev/sdb1", "/mnt/data", "-t", "ext4")
        wait_until(lambda: machine.show("reader", "SubState") == "exited", "the reader's end")
        assert machine.show("reader", "ExecMainStatus") == "0"
    finally:
        machine.run("systemctl", "stop", "reader")
    assert machine.run("ls", f"{folder}/watches") == "kept\n"
    assert (machine.main_pid(unit), machine.show(unit, "NRestarts")) == (main, "0")
    assert "its successor takes over" in machine.journal(unit)


@pytest.mark.parametrize("unit", UNITS)
def test_killed_service_is_started_anew_where_its_mount_was(machine: Machine, unit: str) -> None:
    machine.run("systemctl", "start", unit)
    machine.run("mkdir", f"{UNITS[unit]}/watches/lost")
    machine.run("kill", "-KILL", machine.main_pid(unit))
    wait_for_restart(machine, unit, 1)
    assert machine.mounts(UNITS[unit]) == ["fuse.wqfs"]
    assert machine.run("ls", f"{UNITS[unit]}/watches") == ""


def test_dead_mount_of_before_is_cleared_at_the_start(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/run/wqfs")
    machine.run("wqfs", "/run/wqfs", "-o", "nosurvive")
    machine.run("pkill", "-KILL", "-f", "wqfs /run/wqfs")
    done = machine.ask("ls", "/run/wqfs")
    assert "Transport endpoint is not connected" in done.stderr
    machine.run("systemctl", "start", "wqfs.service")
    assert machine.mounts("/run/wqfs") == ["fuse.wqfs"]


def test_wrong_option_fails_the_start_and_the_journal_has_the_sentence(machine: Machine) -> None:
    machine.drop_in("wqfs.service", "Environment=WQFS_OPTIONS=dept=3", "Restart=no")
    done = machine.ask("systemctl", "start", "wqfs.service")
    assert done.returncode == 1
    assert "Unknown option 'dept'. Did you mean depth?" in machine.journal("wqfs.service")
    assert machine.show("wqfs.service", "ExecMainStatus") == "1"


def test_enabled_service_is_there_after_the_boot(tmp_path: Path, bootable_tree: Path) -> None:
    wants = "etc/systemd/system/multi-user.target.wants"
    enable = f"mkdir -p {wants}; ln -s /usr/local/lib/systemd/system/wqfs.service {wants}"
    with booted(tmp_path, bootable_tree, enable) as machine:
        assert machine.run("systemctl", "is-enabled", "wqfs.service") == "enabled\n"
        assert machine.run("systemctl", "is-system-running") == "running\n"
        assert machine.mounts("/run/wqfs") == ["fuse.wqfs"]


def test_waiting_readers_do_not_hold_up_a_shutdown(tmp_path: Path, bootable_tree: Path) -> None:
    with booted(tmp_path, bootable_tree) as machine:
        machine.run("systemctl", "enable", "--now", "wqfs.service")
        machine.run("systemd-run", "-q", "--unit=reader", "cat", "/run/wqfs/queue")
        wait_for_reader(machine, "/run/wqfs")
        machine.run("systemctl", "poweroff", "--no-wall")
        machine.process.wait(20)  # a stop that timed out would take 90 s
