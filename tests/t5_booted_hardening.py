"""What holds the units back, tried on a booted systemd: what is in force, what must not be added, what had to go."""

from __future__ import annotations

import re

import pytest

from tests.booted import Machine
from tests.tools import ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UNIT = (ROOT / "systemd/wqfs.service").read_text()
DROP_IN = (ROOT / "systemd/wqfs-user.conf").read_text()
PAGE = (ROOT / "docs/how-to/service.md").read_text()


def settings(text: str) -> dict[str, list[str]]:
    """The lines of each setting, in their order."""
    found: dict[str, list[str]] = {}
    for name in re.findall(r"^([A-Z]\w+)=", text, re.MULTILINE):
        found[name] = re.findall(rf"^{name}=.*$", text, re.MULTILINE)
    return found


GONE = [name for name in settings(DROP_IN) if name != "User"]
"""What the drop-in takes away from the unit, or weakens."""

HIDING = {
    "PrivateTmp": "yes", "PrivateMounts": "yes", "PrivateIPC": "yes", "ProtectSystem": "yes", "ProtectHome": "yes",
    "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes", "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes", "ProtectProc": "invisible", "ProcSubset": "pid", "ReadOnlyPaths": "/etc",
    "ReadWritePaths": "/etc", "InaccessiblePaths": "/root", "BindPaths": "/etc:/mnt", "BindReadOnlyPaths": "/etc:/mnt",
    "TemporaryFileSystem": "/mnt", "LogNamespace": "wqfs", "MountFlags": "private",
}  # fmt: skip
BREAKING = {
    "PrivateDevices": "yes", "PrivateUsers": "yes", "CapabilityBoundingSet": "", "SystemCallFilter": "~@mount",
    "DeviceAllow": "",
}  # fmt: skip


def hardening(text: str) -> list[str]:
    """The lines of a unit after the WatchdogSec, to [Install]."""
    return text.partition("\nWatchdogSec=")[2].partition("\n\n")[2].partition("\n[Install]")[0].splitlines()


def serve_as_user(machine: Machine) -> None:
    """What docs/how-to/service.md has for a service that is not root's."""
    machine.shell("""
        cp /usr/local/lib/tmpfiles.d/wqfs.conf.example /etc/tmpfiles.d/wqfs.conf
        systemd-tmpfiles --create wqfs.conf
        echo user_allow_other >> /etc/fuse.conf
        mkdir -p /etc/systemd/system/wqfs.service.d
        cp /usr/local/share/doc/wqfs/wqfs-user.conf /etc/systemd/system/wqfs.service.d/user.conf
        systemctl daemon-reload
    """)


def test_daemon_has_what_mounting_takes_and_no_more(machine: Machine) -> None:
    machine.run("systemctl", "start", "wqfs.service")
    pid = machine.main_pid("wqfs.service")
    status = dict(re.findall(r"^(\w+):\s+(.*)$", machine.run("cat", f"/proc/{pid}/status"), re.MULTILINE))
    only_sys_admin = f"{1 << 21:016x}"
    assert (status["CapBnd"], status["CapEff"], status["CapPrm"]) == (only_sys_admin,) * 3
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert machine.run("readlink", f"/proc/{pid}/ns/net") != machine.run("readlink", "/proc/1/ns/net")


def test_each_line_of_hardening_has_its_reason_above_it_in_both_units() -> None:
    lines = hardening(UNIT)
    assert len(lines) > 30
    for at, line in enumerate(lines):
        assert line.startswith("#") or lines[at - 1].startswith("#"), f"no reason above {line}"
    assert hardening((ROOT / "systemd/wqfs@.service").read_text()) == lines


@pytest.mark.parametrize("name", HIDING)
def test_mount_is_hidden_by_what_the_page_warns_of(machine: Machine, name: str) -> None:
    machine.drop_in("wqfs.service", f"{name}={HIDING[name]}", "Restart=no")
    started = machine.ask("systemctl", "start", "wqfs.service").returncode == 0
    assert machine.mounts("/run/wqfs") == [], f"{name} does no harm (started: {started})"
    assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize("name", BREAKING)
def test_start_fails_with_what_the_page_warns_of(machine: Machine, name: str) -> None:
    machine.drop_in("wqfs.service", f"{name}={BREAKING[name]}", "Restart=no")
    assert machine.ask("systemctl", "start", "wqfs.service").returncode == 1
    assert machine.mounts("/run/wqfs") == []
    assert re.search(rf"\b{name}\b", PAGE)


def test_service_of_a_user_lives_and_is_started_anew(machine: Machine) -> None:
    serve_as_user(machine)
    machine.run("systemctl", "start", "wqfs.service")
    assert machine.run("stat", "-c", "%U", "/run/wqfs") == "wqfs\n"
    pid = machine.main_pid("wqfs.service")
    assert machine.run("stat", "-c", "%U", f"/proc/{pid}") == "wqfs\n"
    machine.run("mkdir", "/run/wqfs/watches/mine", user="daemon")
    machine.run("kill", "-KILL", pid)
    wait_until(lambda: machine.show("wqfs.service", "NRestarts") == "1", "the restart")
    wait_until(lambda: machine.show("wqfs.service", "ActiveState") == "active", "the start")
    assert machine.run("ls", "/run/wqfs/watches", user="daemon") == ""
    machine.run("kill", "-TERM", machine.main_pid("wqfs.service"))  # unmounts by itself, by the set-uid fusermount3
    wait_until(lambda: machine.show("wqfs.service", "ActiveState") == "inactive", "the end")
    assert machine.mounts("/run/wqfs") == []
    assert machine.show("wqfs.service", "Result") == "success"
    assert "ERROR" not in machine.journal("wqfs.service")


def test_instance_of_a_user_mounts_at_a_folder_of_that_user(machine: Machine) -> None:
    unit = "wqfs@srv-events.service"
    machine.shell(f"""
        echo user_allow_other >> /etc/fuse.conf
        install -d -o wqfs -g wqfs /srv/events
        mkdir -p /etc/systemd/system/{unit}.d
        cp /usr/local/share/doc/wqfs/wqfs-user.conf /etc/systemd/system/{unit}.d/user.conf
    """)
    machine.drop_in(unit, "Environment=WQFS_OPTIONS=allow_other")
    machine.run("systemctl", "start", unit)
    assert machine.run("stat", "-c", "%U", "/srv/events", f"/proc/{machine.main_pid(unit)}") == "wqfs\nwqfs\n"
    machine.run("mkdir", "/srv/events/watches/mine", user="daemon")
    machine.run("systemctl", "stop", unit)
    assert machine.show(unit, "Result") == "success"
    assert machine.mounts("/srv/events") == []


@pytest.mark.parametrize("name", GONE)
def test_service_of_a_user_fails_with_what_the_drop_in_takes_away(machine: Machine, name: str) -> None:
    serve_as_user(machine)
    machine.drop_in("wqfs.service", *settings(UNIT)[name], "Restart=no")
    done = machine.ask("systemctl", "start", "wqfs.service")
    assert done.returncode == 1, f"{name} does no harm, so it should stay"
    assert machine.mounts("/run/wqfs") == []


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_exposure_is_what_the_page_says(machine: Machine, as_user: bool) -> None:
    if as_user:
        serve_as_user(machine)
    version = machine.run("systemctl", "--version").split()[1]
    if f"systemd {version}" not in PAGE:
        pytest.skip(f"docs/how-to/service.md has the figures of another systemd than {version}")
    said = machine.run("systemd-analyze", "security", "--no-pager", "wqfs.service")
    level = re.search(r"Overall exposure level for wqfs.service: (\d+\.\d) (\w+)", said)
    assert level is not None
    assert f"{level[1]} ({level[2]})" in PAGE


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_systemd_finds_nothing_wrong_with_the_installed_units(machine: Machine, as_user: bool) -> None:
    if as_user:
        serve_as_user(machine)
    done = machine.ask("systemd-analyze", "verify", "wqfs.service", "wqfs@mnt-wqfs.service")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
