"""/etc/fstab and mount(8), by the real ones, on a booted systemd with a /etc/fstab of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.booted import Machine, booted
from tests.tools import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def fstab(machine: Machine, *lines: str) -> None:
    """Make these the lines of /etc/fstab; the folders are made too."""
    for line in lines:
        machine.run("mkdir", "-p", line.split()[1])
    machine.run("tee", "/etc/fstab", text="".join(f"{line}\n" for line in lines))
    machine.run("systemctl", "daemon-reload")


def daemons(machine: Machine) -> str:
    return machine.ask("pgrep", "-fa", "wqfs .*/mnt/").stdout


def test_mount_a_mounts_each_line_once_and_returns_when_they_answer(machine: Machine) -> None:
    fstab(
        machine,
        "wqfs /mnt/one fuse.wqfs defaults,allow_other,nofail 0 0",
        "other /mnt/two fuse.wqfs ro,max_watches=1,x-note=kept,_netdev 0 0",
        "third /mnt/later fuse.wqfs noauto 0 0",
    )
    assert machine.shell("mount -a; cat /mnt/one/sim/mountinfo /mnt/two/sim/mountinfo").count(" / / ") == 2
    assert machine.mounts("/mnt/later") == []
    machine.run("mount", "-a")
    assert machine.mounts("/mnt/one") == machine.mounts("/mnt/two") == ["fuse.wqfs"]
    said = machine.run("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "/mnt/two")
    assert said.split()[:2] == ["other", "fuse.wqfs"]
    assert said.split()[2].startswith("ro,nosuid,nodev")
    machine.run("mount", "/mnt/later")
    assert machine.mounts("/mnt/later") == ["fuse.wqfs"]
    machine.run("umount", "/mnt/one", "/mnt/two", "third")
    wait_until(lambda: not daemons(machine), "the daemons' end")


def test_mount_a_of_another_file(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/mnt/other")
    machine.run("tee", "/run/other.fstab", text="wqfs /mnt/other fuse.wqfs depth=32 0 0\n")
    machine.run("mount", "-a", "-T", "/run/other.fstab")
    assert machine.mounts("/mnt/other") == ["fuse.wqfs"]
    machine.run("umount", "/mnt/other")


def test_mount_t_with_options_and_umount(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/mnt/plain")
    machine.run("mount", "-t", "fuse.wqfs", "-o", "allow_other,noexec", "name", "/mnt/plain")
    assert "noexec" in machine.run("findmnt", "-n", "-o", "OPTIONS", "name")
    machine.run("mkdir", "/mnt/plain/watches/mine", user="daemon")
    machine.run("umount", "/mnt/plain")
    assert machine.mounts("/mnt/plain") == []


def test_line_with_user_is_mounted_and_unmounted_by_that_user(machine: Machine) -> None:
    fstab(machine, "wqfs /mnt/theirs fuse.wqfs user,noauto 0 0")
    machine.run("chown", "daemon", "/mnt/theirs")
    machine.run("mount", "/mnt/theirs", user="daemon")
    assert machine.mounts("/mnt/theirs") == ["fuse.wqfs"]
    machine.run("mkdir", "/mnt/theirs/watches/mine", user="daemon")
    assert set(
        machine.run(
            "ps", "-o", "user=", "-p", ",".join(machine.run("pgrep", "-f", "wqfs .*/mnt/theirs").split())
        ).split()
    ) == {"daemon"}
    machine.run("umount", "/mnt/theirs", user="daemon")
    assert machine.mounts("/mnt/theirs") == []


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ("dept=3", 1, "Unknown option 'dept'. Did you mean depth?"),
        ("depth=0", 1, "Option depth takes a number of 1..512, not '0'."),
    ],
)
def test_wrong_option_comes_through_mount_8_with_code_and_sentence(
    machine: Machine, options: str, code: int, sentence: str
) -> None:
    fstab(machine, f"wqfs /mnt/wrong fuse.wqfs {options} 0 0")
    done = machine.ask("mount", "/mnt/wrong")
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    done = machine.ask("mount", "-a")
    assert done.returncode == 32  # mount(8): all failed
    assert sentence in done.stderr
    assert machine.mounts("/mnt/wrong") == []
    assert daemons(machine) == ""


def test_missing_folder_and_a_taken_one_are_said(machine: Machine) -> None:
    done = machine.ask("mount", "-t", "fuse.wqfs", "wqfs", "/mnt/nowhere")
    assert done.returncode == 32
    assert "/mnt/nowhere does not exist: make it first" in done.stderr
    machine.run("mkdir", "-p", "/mnt/taken")
    machine.run("mount", "-t", "fuse.wqfs", "wqfs", "/mnt/taken")
    done = machine.ask("mount", "-t", "fuse.wqfs", "wqfs", "/mnt/taken")
    assert done.returncode == 32
    assert "/mnt/taken has a fuse.wqfs filesystem mounted on it already" in done.stderr
    machine.run("umount", "/mnt/taken")


def test_remount_is_refused_and_the_mount_goes_on(machine: Machine) -> None:
    fstab(machine, "wqfs /mnt/kept fuse.wqfs defaults 0 0")
    machine.run("mount", "/mnt/kept")
    done = machine.ask("mount", "-o", "remount,ro", "/mnt/kept")
    assert done.returncode == 1
    assert "cannot be remounted" in done.stderr
    machine.run("mkdir", "/mnt/kept/watches/w")
    machine.run("umount", "/mnt/kept")


def test_mount_in_use_is_busy_and_goes_lazily(machine: Machine) -> None:
    fstab(machine, "wqfs /mnt/busy fuse.wqfs defaults 0 0")
    machine.run("mount", "/mnt/busy")
    machine.run("systemd-run", "-q", "--unit=busy", "cat", "/mnt/busy/queue")
    wait_until(lambda: "wqfs_waiting_readers 1" in machine.run("cat", "/mnt/busy/metrics"), "a reader")
    done = machine.ask("umount", "/mnt/busy")
    assert (done.returncode, "busy" in done.stderr) == (32, True)
    machine.run("umount", "-l", "/mnt/busy")
    assert machine.mounts("/mnt/busy") == []
    wait_until(lambda: machine.show("busy", "ActiveState") == "inactive", "the reader's end of file")
    wait_until(lambda: not daemons(machine), "the daemon's end")


def test_lines_are_mounted_at_boot_and_a_wrong_one_with_nofail_does_not_stop_it(
    tmp_path: Path, bootable_tree: Path
) -> None:
    prepare = """
        mkdir -p mnt/good mnt/wrong
        echo 'wqfs /mnt/good fuse.wqfs defaults,allow_other 0 0' >> etc/fstab
        echo 'wqfs /mnt/wrong fuse.wqfs dept=3,nofail 0 0' >> etc/fstab
    """
    with booted(tmp_path, bootable_tree, prepare) as machine:
        assert machine.mounts("/mnt/good") == ["fuse.wqfs"]
        machine.run("mkdir", "/mnt/good/watches/mine", user="daemon")
        assert machine.show("mnt-wrong.mount", "ActiveState") == "failed"
        assert "Unknown option 'dept'" in machine.journal("mnt-wrong.mount")
        machine.run("systemctl", "stop", "mnt-good.mount")
        assert machine.show("mnt-good.mount", "Result") == "success"
        assert machine.mounts("/mnt/good") == []


@pytest.mark.skipif("autofs" not in Path("/proc/misc").read_text(), reason="this kernel has no autofs")
def test_automount_mounts_at_the_first_look_and_drops_watches_when_idle(machine: Machine) -> None:
    fstab(machine, "wqfs /mnt/auto fuse.wqfs noauto,x-systemd.automount,x-systemd.idle-timeout=1s 0 0")
    machine.run("systemctl", "start", "mnt-auto.automount")
    assert machine.mounts("/mnt/auto") == ["autofs"]
    machine.run("mkdir", "/mnt/auto/watches/mine")  # setsid before the mount would wait for itself here
    assert machine.mounts("/mnt/auto") == ["autofs", "fuse.wqfs"]
    wait_until(lambda: machine.mounts("/mnt/auto") == ["autofs"], "the idle timeout")
    assert machine.run("ls", "/mnt/auto/watches") == ""
    machine.run("systemctl", "stop", "mnt-auto.automount", "mnt-auto.mount")
    assert machine.mounts("/mnt/auto") == []
