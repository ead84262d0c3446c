/* The new mount API, and what the notification series of 2020 adds to it: by number, for no libc has them all.
 *
 *     mounts DIR WATCH_MOUNT_NR WATCH_SB_NR
 *
 * Prints the notifications that its own mounts at DIR make, as they are read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) \
	({ long got_ = (call); if (got_ < 0) { fprintf(stderr, "%s: %s\n", #call, strerror(errno)); exit(1); } (int)got_; })

#define SET_SIZE 0x5760
#define WATCH_ID(info) ((info) >> 8 & 0xff)

struct notification { uint32_t type : 24, subtype : 8, info; };
struct mount_attributes { uint64_t set, clear, propagation, userns_fd; };

static int queue[2];

static void read_all(void)
{
	char buffer[4096];
	ssize_t size = read(queue[0], buffer, sizeof(buffer));
	for (char *at = buffer; size > 0 && at < buffer + size;) {
		struct notification record;
		uint64_t on, aux = 0;
		memcpy(&record, at, sizeof(record));
		memcpy(&on, at + 8, sizeof(on));
		if ((record.info & 0x7f) == 24)
			memcpy(&aux, at + 16, sizeof(aux));
		printf("id %u type %u subtype %u flags %x%s\n", WATCH_ID(record.info), record.type, record.subtype,
		       record.info >> 16, aux ? " aux" : "");
		at += record.info & 0x7f;
	}
}

static void step(const char *what)
{
	printf("%s\n", what);
	read_all();
}

static int refused(long got)
{
	return got < 0 ? errno : 0;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	const char *dir = argv[1];
	char below[4096];
	long watch_mount = atol(argv[2]), watch_sb = atol(argv[3]);
	snprintf(below, sizeof(below), "%s/below", dir);

	CHECK(syscall(SYS_pipe2, queue, O_EXCL | O_NONBLOCK));
	CHECK(ioctl(queue[0], SET_SIZE, 256));
	CHECK(syscall(watch_mount, AT_FDCWD, "/", 0, queue[0], 1));
	printf("twice %d, ID %d, flags %d, queue %d, path %d, not watched %d\n",
	       refused(syscall(watch_mount, AT_FDCWD, "/", 0, queue[0], 2)) == EBUSY,
	       refused(syscall(watch_mount, AT_FDCWD, "/", 0, queue[0], 256)) == EINVAL,
	       refused(syscall(watch_mount, AT_FDCWD, "/", AT_SYMLINK_NOFOLLOW, queue[0], 2)) == EINVAL,
	       refused(syscall(watch_mount, AT_FDCWD, "/", 0, 0, 2)) == EINVAL,
	       refused(syscall(watch_mount, AT_FDCWD, "", 0, queue[0], 2)) == ENOENT,
	       refused(syscall(watch_sb, AT_FDCWD, "/", 0, queue[0], -1)) == EBADSLT);

	int fs = CHECK(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
	CHECK(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", "made", 0));
	printf("again %d\n", refused(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", "twice", 0)) == EINVAL);
	char message[256] = "";
	CHECK(read(fs, message, sizeof(message) - 1));
	printf("message: %s\n", message);
	printf("no message %d\n", read(fs, message, sizeof(message)) < 0);
	CHECK(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	int tree = CHECK(syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID));
	struct mount_attributes attributes = {.set = MOUNT_ATTR_RDONLY};
	CHECK(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)));
	step("made");
	CHECK(syscall(SYS_move_mount, tree, "", AT_FDCWD, dir, MOVE_MOUNT_F_EMPTY_PATH));
	step("attached");
	CHECK(syscall(watch_mount, tree, "", AT_EMPTY_PATH, queue[1], 3));
	CHECK(syscall(watch_sb, AT_FDCWD, dir, 0, queue[0], 4));

	/* A child has the same descriptors. */
	pid_t child = fork();
	if (!child) {
		struct mount_attributes writable = {.clear = MOUNT_ATTR_RDONLY, .propagation = 1 << 20};
		_exit(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &writable, sizeof(writable)) != 0);
	}
	int status;
	CHECK(waitpid(child, &status, 0));
	printf("child %d\n", status);
	step("writable");

	int clone = CHECK(syscall(SYS_open_tree, AT_FDCWD, dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
	CHECK(syscall(SYS_move_mount, clone, "", tree, "below", MOVE_MOUNT_F_EMPTY_PATH));
	step("cloned");
	CHECK(syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "ro", NULL, 0));
	CHECK(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
	step("reconfigured");
	printf("from a shared one %d\n", refused(syscall(SYS_move_mount, AT_FDCWD, below, AT_FDCWD, "/x", 0)) == EINVAL);
	CHECK(syscall(watch_mount, tree, "", AT_EMPTY_PATH, queue[0], -1));
	CHECK(close(fs));
	CHECK(close(tree));
	CHECK(syscall(SYS_umount2, dir, 2));
	step("gone");
	return 0;
}
