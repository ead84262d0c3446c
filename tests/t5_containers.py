"""wqfs in real containers: the four ways of docs/how-to/containers.md, and what the page promises of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import containers
from tests.containers import Host
from tests.t3_handover import FILTERS
from tests.tools import ROOT
from wqfs.cli import handover

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the first test waits for the image to be built
    pytest.mark.skipif(bool(containers.missing()), reason=f"needs {containers.missing()}"),
]

PAGE = (ROOT / "docs/how-to/containers.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
AS_USER = ("c: rootless", "d: handed in, rootless")
PYTHON = "/usr/local/lib/wqfs/bin/python"
"""The interpreter of an installed wqfs, on the host and in the image."""


def blocks(section: str, language: str) -> list[str]:
    """The blocks of that language in a section of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with wqfs installed, and with the image `wqfs`, built by the page's command."""
    with containers.host(tmp_path_factory.mktemp("host")) as made:
        made.install()
        made.make_base()
        (command,) = blocks("The image", "sh")
        made.build(command)
        made.give_image("wqfs")
        yield made


@pytest.mark.parametrize("section", [name for name in SECTIONS if blocks(name, "sh") and name != "The image"])
def test_commands_of_the_page_print_what_it_shows(host: Host, section: str) -> None:
    came = host.run("\n".join(blocks(section, "sh")), "ada" if section in AS_USER else "root").splitlines()
    shown = "".join(blocks(section, "text")).splitlines()
    assert shown
    rest = iter(came)
    assert all(line in rest for line in shown), "\n".join(came)  # in this order


def test_image_has_what_the_page_says_and_no_compiler(host: Host) -> None:
    said = host.run("""
        podman run --rm wqfs sh -c '
            wqfs --version
            ls /usr/local/include
            ls -A /src 2>&1
            command -v gcc make || echo none'
    """)
    assert re.search(r"^wqfs \d.*\nwqfs\.h\nls: cannot access '/src'.*\nnone$", said, re.MULTILINE), said


def test_image_without_a_command_mounts_and_stop_unmounts(host: Host) -> None:
    said = host.run("""
        podman run -d --name plain --device /dev/fuse --cap-add SYS_ADMIN wqfs
        until podman exec plain mountpoint -q /run/wqfs; do sleep 0.1; done
        podman exec plain wqfs post mount /dev/sdb1 /mnt/data -t ext4
        podman stop -t 20 plain
        podman logs plain
        podman inspect --format 'ended with {{.State.ExitCode}}' plain
        podman rm plain
    """)
    assert "stopping on SIGTERM" in said and "/run/wqfs: unmounted" in said and "ended with 0" in said


def test_line_in_the_help_of_handover_runs(host: Host) -> None:
    (line,) = re.findall(r"^    (wqfs handover .*podman.*)$", handover.make_parser().description or "", re.MULTILINE)
    said = host.run(f"""
        mkdir /run/wqfs
        {line.replace("IMAGE", "wqfs")} &
        until mountpoint -q /run/wqfs; do sleep 0.1; done
        wqfs post mount /dev/sdb1 /mnt/data -t ext4
        wqfs wait mounted /mnt/data --timeout 20
        grep -c /mnt/data /run/wqfs/sim/mountinfo
        fusermount3 -u /run/wqfs
        wait %1 && echo ended with 0
    """)
    assert said.endswith("ended with 0\n") and "\n1\n" in said


def test_tools_of_busybox_inside_follow_what_the_host_posts(host: Host) -> None:
    """(a): blocking readers, a log that grows, a queue that hangs up, the reason of a refusal."""
    said = host.run("""
        mkdir /run/wqfs
        wqfs -o allow_other /run/wqfs
        wqfs watch make w
        podman run -d --name tools -v /run/wqfs:/run/wqfs:rslave busybox sh -c '
            cd /run/wqfs
            tail -f watches/w/log > /tmp/followed &
            dd if=watches/w/queue bs=4096 count=1 2>/dev/null | xxd -p | cut -c 1-8 > /tmp/record &
            while read -r line; do echo "read $line"; done < watches/w/events
            cat /tmp/record
            grep -c new_mount /tmp/followed
            echo nonsense > post || tail -n 1 errors
            echo end'
        # dd waits in read(2), the shell in poll(2); tail looks again and again; the fourth is grep's own.
        until [ "$(grep -cE '^wqfs_(waiting_readers 1|handles 4)$' /run/wqfs/metrics)" = 2 ]; do sleep 0.05; done
        wqfs post mount /dev/sdb1 /mnt/data -t ext4
        until podman exec tools grep -q new_mount /tmp/followed; do sleep 0.05; done
        wqfs watch remove w
        podman wait tools
        podman logs tools
        podman rm tools
        fusermount3 -u /run/wqfs
    """)
    assert re.search(r'^read \{"seq":1,.*"event":"new_mount"', said, re.MULTILINE), said
    assert re.search(r"^02000000\n1\n.*nonsense.*\nend$", said, re.MULTILINE | re.DOTALL), said


@pytest.mark.parametrize("end", ["fusermount3 -u /run/above/wqfs", "pkill -KILL wqfs"])
def test_daemon_that_starts_anew_is_seen_through_the_folder_above(host: Host, end: str) -> None:
    """(a): and not through the mountpoint itself."""
    said = host.run(f"""
        mkdir -p /run/above/wqfs
        wqfs -o allow_other /run/above/wqfs
        podman run -d --name above -v /run/above:/run/above:rslave busybox sleep 1000
        podman run -d --name itself -v /run/above/wqfs:/run/above/wqfs:rslave busybox sleep 1000
        {end}
        wqfs -o allow_other /run/above/wqfs
        wqfs watch make anew
        podman exec above ls /run/above/wqfs/watches
        podman exec itself ls /run/above/wqfs/watches || echo dead
        echo end
    """)
    dead = "ls: /run/above/wqfs/watches: Transport endpoint is not connected\ndead\n" if "KILL" in end else ""
    assert said.endswith(f"\nanew\n{dead}end\n"), said


def test_users_of_a_container_watch_with_allow_other_alone(host: Host) -> None:
    """(a): what the page says of allow_other."""
    said = host.run("""
        mkdir /run/wqfs /run/closed
        wqfs -o allow_other /run/wqfs
        wqfs /run/closed
        try() { podman run --rm --user 1000:1000 -v /run/wqfs:/run/wqfs -v /run/closed:/run/closed busybox "$@" 2>&1; }
        try sh -c 'mkdir /run/wqfs/watches/mine && cat /run/wqfs/watches/mine/status | head -n 1'
        try sh -c 'echo "umount /" > /run/wqfs/post' || echo no post
        podman run --rm -v /run/closed:/run/closed busybox ls -d /run/closed/watches
        ada() {
            env -u CONTAINERS_STORAGE_CONF -C /run/ada HOME=/run/ada TMPDIR=/run/ada/tmp \
                XDG_RUNTIME_DIR=/run/user/4711 CONTAINERS_CONF=/run/ada/containers.conf \
                setpriv --reuid=ada --regid=ada --clear-groups "$@"
        }
        ada podman run --rm -v /run/wqfs:/run/wqfs wqfs sh -c 'mkdir /run/wqfs/watches/hers; ls /run/wqfs/watches'
        try ls /run/closed || echo closed
        fusermount3 -u /run/wqfs
        fusermount3 -u /run/closed
    """)
    assert re.search(r"^queued 0$", said, re.MULTILINE), said
    assert "no post" in said and said.endswith("closed\n"), said
    assert "\n/run/closed/watches\nhers\nmine\n" in said, said  # root of a rootless container is a user


def test_socket_lets_in_its_owner_alone_until_its_mode_is_changed(host: Host) -> None:
    said = host.run("""
        mkdir /run/wqfs
        wqfs handover --socket /run/wqfs.sock /run/wqfs &
        until [ -S /run/wqfs.sock ]; do sleep 0.05; done
        serve() { podman run --rm --cap-drop=all --user 1000:1000 -v /run/wqfs.sock:/run/wqfs.sock wqfs "$@"; }
        serve wqfs --fuse-fd unix:/run/wqfs.sock -f x || echo refused with $?
        chmod 666 /run/wqfs.sock
        serve wqfs --fuse-fd unix:/run/wqfs.sock -f x &
        until mountpoint -q /run/wqfs; do sleep 0.05; done
        stat -c '%u %a %n' /run/wqfs/post
        fusermount3 -u /run/wqfs
        wait
    """)
    assert "Permission denied" in said and "refused with 1" in said
    assert "\n0 200 /run/wqfs/post\n" in said  # the mounter's, though user 1000 serves it


def test_container_without_privilege_hears_what_would_help(host: Host) -> None:
    said = host.run("""
        podman run --rm --cap-drop=all wqfs wqfs /run/wqfs || echo refused with $?
        podman run --rm --cap-drop=all --device /dev/fuse wqfs wqfs /run/wqfs || echo refused with $?
        podman run --rm --cap-drop=all wqfs wqfs doctor || echo it cannot be mounted
    """)
    assert re.search(r"/dev/fuse is missing.*--device /dev/fuse, or mount outside it \(wqfs handover\)", said), said
    assert re.search(r"--cap-add SYS_ADMIN, or mount outside \(wqfs handover\)\.\nrefused with 1\n", said), said
    assert re.search(r"^fail +permission", said, re.MULTILINE) and said.endswith("it cannot be mounted\n"), said


def test_killed_container_leaves_no_mount(host: Host) -> None:
    said = host.run("""
        mkdir /run/wqfs
        wqfs handover --socket /run/wqfs.sock /run/wqfs &
        until [ -S /run/wqfs.sock ]; do sleep 0.05; done
        podman run -d --name server --cap-drop=all -v /run/wqfs.sock:/run/wqfs.sock \
            wqfs wqfs --fuse-fd unix:/run/wqfs.sock -f x
        until mountpoint -q /run/wqfs; do sleep 0.05; done
        cat /run/wqfs/queue &
        until grep -q '^wqfs_waiting_readers 1' /run/wqfs/metrics; do sleep 0.05; done
        podman kill server
        wait %1 && echo handover ended with 0
        wait %2 || echo cat ended
        mountpoint -q /run/wqfs || echo nothing mounted
        podman rm server > /run/removed
    """)
    assert said.endswith("handover ended with 0\ncat ended\nnothing mounted\n"), said


def test_server_in_bubblewrap_sees_nothing_but_usr_and_the_socket(host: Host) -> None:
    """(d) without an engine: no /dev/fuse, no network, no capability."""
    said = host.run("""
        mkdir /run/wqfs
        wqfs handover --socket /run/wqfs.sock /run/wqfs -- bwrap --unshare-all --cap-drop ALL --die-with-parent \
            --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
            --proc /proc --dev /dev --bind /run/wqfs.sock /run/wqfs.sock wqfs --fuse-fd unix:/run/wqfs.sock -f x &
        until mountpoint -q /run/wqfs; do sleep 0.05; done
        wqfs post mount /dev/sdb1 /mnt/data -t ext4
        grep -c /mnt/data /run/wqfs/sim/mountinfo
        fusermount3 -u /run/wqfs
        wait %1 && echo ended with 0
    """)
    assert said.endswith("ended with 0\n") and "\n1\n" in said


CLIENT = f"cat > /run/client.py <<'END'\n{FILTERS}END\n"
"""A client that fails unless the filter by pointer is refused and that of wqfs.client works."""


def test_client_sets_its_filter_where_the_server_is_in_a_container(host: Host) -> None:
    """The client on the host, in the server's container, and in another one."""
    said = host.run(f"""
        {CLIENT}
        mkdir -p /run/demo/wqfs
        wqfs handover --socket /run/wqfs.sock /run/demo/wqfs &
        until [ -S /run/wqfs.sock ]; do sleep 0.05; done
        podman run -d --name server --cap-drop=all -v /run/wqfs.sock:/run/wqfs.sock -v /run/demo:/run/demo:rslave \
            -v /run/client.py:/client.py wqfs wqfs --fuse-fd unix:/run/wqfs.sock -f x
        until mountpoint -q /run/demo/wqfs; do sleep 0.05; done
        {PYTHON} /run/client.py /run/demo/wqfs && echo on the host
        podman exec server {PYTHON} /client.py /run/demo/wqfs && echo beside the server
        podman run --rm --cap-drop=all -v /run/demo/wqfs:/mnt -v /run/client.py:/client.py \
            wqfs {PYTHON} /client.py /mnt && echo in another container
        fusermount3 -u /run/demo/wqfs
        wait
    """)
    assert re.search(r"^on the host\nbeside the server\nin another container$", said, re.MULTILINE), said


def test_client_outside_sets_its_filter_where_the_container_mounted(host: Host) -> None:
    """(b): the pid of a caller outside is 0 to the server."""
    said = host.run(f"""
        {CLIENT}
        mkdir -p /run/shared/wqfs
        podman run -d --name server --device /dev/fuse --cap-add SYS_ADMIN -v /run/shared:/run/shared:rshared \
            wqfs wqfs -f -o allow_other /run/shared/wqfs
        until mountpoint -q /run/shared/wqfs; do sleep 0.05; done
        {PYTHON} /run/client.py /run/shared/wqfs && echo on the host
        podman stop server
        podman rm server
    """)
    assert "\non the host\n" in said
