"""The ioctls of a queue from a program in C, with the header that is shipped."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.queue_ioctls import (
    QUEUED,
    SET_FILTER,
    SET_SIZE,
    WATCH_DEVICES,
    WATCH_KEY,
    WATCH_MOUNT,
    WATCH_SB,
    make_key,
    sized,
)
from tests.tools import LIMIT, ROOT, Mount, new_watch, opened
from wqfs.abi import ioctls

PROGRAM = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/watch_queue.h>
#include "wqfs.h"

static void number(const char *name, unsigned long value) { printf("%s %lu\n", name, value); }

static void did(const char *name, int answer)
{
	printf("%s %s\n", name, answer < 0 ? strerror(errno) : "ok");
}

/* Standard input is the queue; the argument is a key. */
int main(int argc, char **argv)
{
	struct wqfs_watch_key key = { .key = argc > 1 ? atoi(argv[1]) : 0, .id = 1 };
	struct wqfs_watch_path path = { .id = 2, .path = "/mnt/c" };
	struct wqfs_watch_devices devices = { .id = 3 };
	struct wqfs_queued queued = { 0 };
	struct {
		struct watch_notification_filter head;
		struct watch_notification_type_filter rules[2];
	} filter = {
		.head = { .nr_filters = 2 },
		.rules = {
			{ .type = WATCH_TYPE_META, .subtype_filter = { 1 } },
			{ .type = WATCH_TYPE_KEY_NOTIFY, .subtype_filter = { 1 << NOTIFY_KEY_UPDATED } },
		},
	};

	number("IOC_WATCH_QUEUE_SET_SIZE", IOC_WATCH_QUEUE_SET_SIZE);
	number("IOC_WATCH_QUEUE_SET_FILTER", IOC_WATCH_QUEUE_SET_FILTER);
	number("WQFS_IOC_WATCH_KEY", WQFS_IOC_WATCH_KEY);
	number("WQFS_IOC_WATCH_MOUNT", WQFS_IOC_WATCH_MOUNT);
	number("WQFS_IOC_WATCH_SB", WQFS_IOC_WATCH_SB);
	number("WQFS_IOC_WATCH_DEVICES", WQFS_IOC_WATCH_DEVICES);
	number("WQFS_IOC_QUEUED", WQFS_IOC_QUEUED);
	number("WQFS_IOC_SETTLE", WQFS_IOC_SETTLE);
	number("WQFS_IOC_WATCH_KEY_AS", WQFS_IOC_WATCH_KEY_AS);
	number("WQFS_IOC_DELIVER", WQFS_IOC_DELIVER);
	number("WATCH_KEY_AS.size", sizeof(struct wqfs_watch_key_as));
	number("DELIVER.size", sizeof(struct wqfs_deliver));
	number("WQFS_SETTLE_READERS", WQFS_SETTLE_READERS);
	for (unsigned n = 0; n <= 16; n++)
		printf("WQFS_IOC_SET_FILTER(%u) %lu\n", n, (unsigned long)WQFS_IOC_SET_FILTER(n));
	number("WATCH_KEY.size", sizeof(key));
	number("WATCH_PATH.size", sizeof(path));
	number("WATCH_DEVICES.size", sizeof(devices));
	number("QUEUED.size", sizeof(queued));
	number("filter", sizeof(filter));

	did("size", ioctl(0, IOC_WATCH_QUEUE_SET_SIZE, 40));
	did("size again", ioctl(0, IOC_WATCH_QUEUE_SET_SIZE, 40));
	did("filter by value", ioctl(0, WQFS_IOC_SET_FILTER(2), &filter));
	did("no filter", ioctl(0, IOC_WATCH_QUEUE_SET_FILTER, NULL));
	did("key", ioctl(0, WQFS_IOC_WATCH_KEY, &key));
	did("mount", ioctl(0, WQFS_IOC_WATCH_MOUNT, &path));
	did("sb", ioctl(0, WQFS_IOC_WATCH_SB, &path));
	did("devices", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	did("devices again", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	key.id = path.id = devices.id = -1;
	did("no key", ioctl(0, WQFS_IOC_WATCH_KEY, &key));
	did("no mount", ioctl(0, WQFS_IOC_WATCH_MOUNT, &path));
	did("no sb", ioctl(0, WQFS_IOC_WATCH_SB, &path));
	did("no devices", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	did("no devices again", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	did("queued", ioctl(0, WQFS_IOC_QUEUED, &queued));
	printf("queued %u %u %u %u\n", queued.records, queued.bytes, queued.loss, queued.depth);
	return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PROGRAM, compiled against the header that is shipped."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("gcc is missing: apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.c").write_text(PROGRAM)
    done = subprocess.run(
        [compiler, "-Wall", "-Werror", "-I", str(ROOT / "wqfs/abi"), "-o", "program", "program.c"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "program"


def output_of(program: Path, queue: Path, key: int = 0) -> list[str]:
    with opened(queue) as fd:
        done = subprocess.run(
            [str(program), str(key)], stdin=fd, capture_output=True, text=True, timeout=LIMIT, check=True
        )
    return done.stdout.splitlines()


def test_header_in_c_has_the_numbers_of_python(program: Path, shared: Mount) -> None:
    said = dict(line.rsplit(" ", 1) for line in output_of(program, shared.path / "queue"))
    names = [name for name in vars(ioctls) if name.startswith(("IOC_", "WQFS_IOC_"))]
    assert len(names) == 10
    for name in (*names, "WQFS_SETTLE_READERS"):
        assert int(said[name]) == getattr(ioctls, name), name
    for count in range(17):
        assert int(said[f"WQFS_IOC_SET_FILTER({count})"]) == ioctls.wqfs_ioc_set_filter(count)
    for name in ("WATCH_KEY", "WATCH_PATH", "WATCH_DEVICES", "QUEUED", "WATCH_KEY_AS", "DELIVER"):
        assert int(said[f"{name}.size"]) == getattr(ioctls, name).size, name
    assert int(said["filter"]) == ioctls.wqfs_ioc_set_filter(2) >> 16 & 0x3FFF


def test_header_in_c_has_the_numbers_of_these_tests(program: Path, shared: Mount) -> None:
    said = dict(line.rsplit(" ", 1) for line in output_of(program, shared.path / "queue"))
    wanted = {
        "IOC_WATCH_QUEUE_SET_SIZE": SET_SIZE,
        "IOC_WATCH_QUEUE_SET_FILTER": SET_FILTER,
        "WQFS_IOC_WATCH_KEY": WATCH_KEY,
        "WQFS_IOC_WATCH_MOUNT": WATCH_MOUNT,
        "WQFS_IOC_WATCH_SB": WATCH_SB,
        "WQFS_IOC_WATCH_DEVICES": WATCH_DEVICES,
        "WQFS_IOC_QUEUED": QUEUED,
        "WQFS_IOC_SET_FILTER(16)": sized(16),
    }
    assert {name: int(said[name]) for name in wanted} == wanted


def test_program_in_c_uses_every_ioctl(program: Path, shared: Mount) -> None:
    shared.post("mount /dev/sde1 /mnt/c -t ext4")
    key = make_key(shared, "c")
    with new_watch(shared) as watch:
        lines = output_of(program, watch / "queue", key)
        did = lines[lines.index("size ok") :]
        assert did == [
            "size ok",
            f"size again {os.strerror(errno.EBUSY)}",
            "filter by value ok",
            "no filter ok",
            "key ok",
            "mount ok",
            "sb ok",
            "devices ok",
            f"devices again {os.strerror(errno.EBUSY)}",
            "no key ok",
            "no mount ok",
            "no sb ok",
            "no devices ok",
            f"no devices again {os.strerror(errno.EBADSLT)}",
            "queued ok",
            "queued 4 64 0 64",  # the four removals
        ]
