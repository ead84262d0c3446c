"""A mount that goes over a socket to its server: `wqfs handover --socket` and `--fuse-fd unix:PATH`."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.t3_handover import WQFS, use
from tests.tools import LIMIT, MOUNT_COMMAND, is_mounted, running, wait_until


class Place:
    """A folder with the mountpoint `mnt`, the socket `socket` and the logs of both sides."""

    def __init__(self, folder: Path) -> None:
        self.mnt = folder / "mnt"
        self.mnt.mkdir()
        self.socket = folder / "socket"
        self.log = folder / "log"

    @contextmanager
    def handing(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """`wqfs handover --socket`, once it listens."""
        command: tuple[str | Path, ...] = (*WQFS, "handover", "--socket", self.socket, *words, self.mnt)
        with open(self.log, "ab") as log, running(*command, stdout=log, stderr=log) as process:
            try:
                wait_until(lambda: self.socket.exists() or process.poll() is not None, "the socket")
                yield process
            finally:
                subprocess.run(["fusermount3", "-quz", "--", self.mnt], check=False, timeout=LIMIT)

    @contextmanager
    def served(self, *before: str, options: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """A server that has connected and answers; before: what starts it."""
        words = ("-o", options) if options else ()
        reader, writer = os.pipe()
        command = (*before, *MOUNT_COMMAND, "--fuse-fd", f"unix:{self.socket}", *words, "--ready-fd", str(writer))
        with open(self.log, "ab") as log:
            with running(*command, "-f", "x", stdout=log, stderr=log, pass_fds=[writer]) as process:
                os.close(writer)
                with open(reader, "rb") as ready:
                    assert ready.readline() == b"ready\n", self.log.read_text()
                yield process


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_mount_is_made_for_who_connects_and_ends_with_the_server(place: Place) -> None:
    with place.handing() as handover:
        assert stat.S_IMODE(place.socket.stat().st_mode) == 0o600
        assert not is_mounted(place.mnt)  # nobody can hang in it
        with place.served() as server:
            use(place.mnt)
            assert not place.socket.exists()
            server.terminate()
            assert server.wait(LIMIT) == 0
        assert handover.wait(LIMIT) == 0
        assert not is_mounted(place.mnt)


def test_killed_server_leaves_no_mount(place: Place) -> None:
    with place.handing() as handover, place.served() as server:
        server.kill()
        assert handover.wait(LIMIT) == 0
        assert not is_mounted(place.mnt)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_handover_takes_mount_and_server_along(place: Place, number: signal.Signals) -> None:
    with place.handing() as handover, place.served() as server:
        handover.send_signal(number)
        assert handover.wait(LIMIT) == 130
        assert not is_mounted(place.mnt)
        assert server.wait(LIMIT) == 0


def test_stopped_handover_that_nobody_came_to_leaves_no_socket(place: Place) -> None:
    with place.handing() as handover:
        handover.terminate()
        assert handover.wait(LIMIT) == 130
        assert not place.socket.exists()


def test_server_hears_owner_and_options_of_the_mounter(place: Place) -> None:
    """In a user namespace it is somebody else."""
    unshare = ("unshare", "--user", "--map-user=4711", "--map-group=4711")
    words = () if os.geteuid() else ("-o", "allow_other")
    with place.handing(*words, "-o", "depth=64"), place.served(*unshare, options="max_line=100"):
        found = (place.mnt / "post").stat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
        assert stat.S_IMODE((place.mnt / "watches").stat().st_mode) == (0o1777 if words else 0o755)
        with pytest.raises(OSError, match="Invalid argument"):  # the server's own option
            (place.mnt / "post").write_text("x" * 200 + "\n")
        (place.mnt / "watches/w").mkdir()
        (place.mnt / "post").write_text("mount a /mnt/a -t tmpfs\n")
        assert (place.mnt / "watches/w/depth").read_text() == "64\n"


def test_command_beside_the_socket_ends_it(place: Place) -> None:
    script = f"exec {' '.join(MOUNT_COMMAND)} --fuse-fd unix:{place.socket} -f x"
    command = (*WQFS, "handover", "--socket", place.socket, place.mnt, "--", "sh", "-c", script)
    with open(place.log, "wb") as log, running(*command, stdout=log, stderr=log) as process:
        wait_until(lambda: "mounted" in place.log.read_text() or process.poll() is not None, "the server")
        use(place.mnt)
        process.terminate()  # goes to the command
        assert process.wait(LIMIT) == 0
    assert not is_mounted(place.mnt)
    assert "handed over to pid" in place.log.read_text()


def test_exit_code_of_a_command_that_never_connects_is_passed_on(place: Place) -> None:
    command = (*WQFS, "handover", "--socket", place.socket, place.mnt, "--", "sh", "-c", "exit 7")
    assert subprocess.run(command, timeout=LIMIT, check=False).returncode == 7
    assert not place.socket.exists()


def test_failed_mount_is_said_on_both_sides(place: Place) -> None:
    with place.handing() as handover:
        place.mnt.rmdir()
        done = subprocess.run(
            [*MOUNT_COMMAND, "--fuse-fd", f"unix:{place.socket}", "-f", "x"],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 2 and "no mount was handed over" in done.stderr
        assert handover.wait(LIMIT) == 1
    assert f"{place.mnt} does not exist" in place.log.read_text()


def test_socket_of_a_dead_handover_is_replaced_and_a_file_is_not(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.socket))
    with place.handing(), place.served():
        use(place.mnt)
    place.socket.write_text("mine")
    with place.handing() as handover:
        assert handover.wait(LIMIT) == 1
    assert "Address already in use" in place.log.read_text()
    assert place.socket.read_text() == "mine"


def test_second_handover_at_a_socket_is_refused_and_the_first_waits_on(place: Place) -> None:
    with place.handing() as first:
        with place.handing() as second:
            assert second.wait(LIMIT) == 1
        assert "Address already in use" in place.log.read_text()
        with place.served():
            use(place.mnt)
        assert first.wait(LIMIT) == 0


def test_command_of_a_failed_mount_has_ended_too(place: Place) -> None:
    place.mnt.rmdir()
    script = f"{' '.join(MOUNT_COMMAND)} --fuse-fd unix:{place.socket} -f x; exec sleep 1000"
    command = [*WQFS, "handover", "--socket", str(place.socket), str(place.mnt), "--", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1 and f"{place.mnt} does not exist" in done.stderr


@pytest.mark.parametrize(
    ("fuse_fd", "said"),
    [
        ("unix:/nowhere/at/all", "No such file or directory: `wqfs handover --socket` must wait"),
        ("unix:/" + "x" * 200, "too long"),
        ("unix:", "takes the number of an open descriptor, or unix:PATH, not 'unix:'"),
    ],
)
def test_socket_that_does_not_answer_is_a_sentence(fuse_fd: str, said: str) -> None:
    done = subprocess.run(
        [*MOUNT_COMMAND, "--fuse-fd", fuse_fd, "-f", "x"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
