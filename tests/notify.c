/* A program for the kernel's notification pipes, as Documentation/core-api/watch_queue.rst describes them; nothing
 * in it knows of wqfs. It watches its session keyring and a key in it, lets a child change both, and prints each
 * record. tests/t3_run_programs.py runs it under `wqfs run`; by hand it runs on a kernel that has such pipes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define O_NOTIFICATION_PIPE 0200 /* O_EXCL */
#define SET_SIZE _IO('W', 0x60)
#define SET_FILTER _IO('W', 0x61)

enum { RECORDS = 5 };
enum { JOIN_SESSION = 1, UPDATE = 2, CLEAR = 7, UNLINK = 9, WATCH_KEY = 32, SESSION = -3 };

struct rule {
	uint32_t type, info_filter, info_mask, subtypes[8];
};

struct filter {
	uint32_t count, reserved;
	struct rule rules[2];
};

static void need(int true, const char *what)
{
	if (!true) {
		fprintf(stderr, "notify: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static long keyctl(long operation, long a, long b, long c)
{
	return syscall(SYS_keyctl, operation, a, b, c, 0);
}

static long add_key(const char *description, const char *payload)
{
	return syscall(SYS_add_key, "user", description, payload, strlen(payload), SESSION);
}

static void change(long key)
{
	need(keyctl(UPDATE, key, (long)"two", 3) == 0, "update");
	need(add_key("second", "x") > 0, "add_key");
	need(keyctl(UNLINK, key, SESSION, 0) == 0, "unlink");
	need(keyctl(CLEAR, SESSION, 0, 0) == 0, "clear");
	exit(0);
}

static const char *name_of(uint32_t serial, long session, long key)
{
	return serial == session ? "session" : serial == key ? "key" : serial ? "another" : "none";
}

static void print(const unsigned char *record, long session, long key)
{
	uint32_t word, info, body[2];

	memcpy(&word, record, 4);
	memcpy(&info, record + 4, 4);
	printf("type %u subtype %u id %u", word & 0xffffff, word >> 24, info >> 8 & 0xff);
	if ((info & 0x7f) == 16) {
		memcpy(body, record + 8, 8);
		printf(" %s", name_of(body[0], session, key));
		if ((word & 0xffffff) == 1)
			printf(" %s", name_of(body[1], session, key));
	}
	printf("\n");
}

int main(void)
{
	struct filter filter = {
		.count = 2,
		.rules = { { .type = 1, .subtypes = { 0xffffffff } }, { .type = 0, .subtypes = { 0xffffffff } } },
	};
	unsigned char buffer[433];
	struct pollfd poller;
	long session, key;
	int ends[2], queued, seen = 0;
	pid_t child;

	session = keyctl(JOIN_SESSION, 0, 0, 0);
	need(session > 0, "join session");
	key = add_key("first", "one");
	need(key > 0, "add_key");
	need(pipe2(ends, O_NOTIFICATION_PIPE | O_NONBLOCK) == 0, "pipe2");
	need(ioctl(ends[0], SET_SIZE, 64) == 0, "set size");
	need(ioctl(ends[0], SET_SIZE, 64) < 0 && errno == EBUSY, "set size again");
	need(ioctl(ends[0], SET_FILTER, &filter) == 0, "set filter");
	need(keyctl(WATCH_KEY, session, ends[0], 1) == 0, "watch session");
	need(keyctl(WATCH_KEY, key, ends[0], 2) == 0, "watch key");
	need(read(ends[0], buffer, sizeof buffer) < 0 && errno == EAGAIN, "nothing to read");
	need(write(ends[1], "x", 1) < 0 && errno == EXDEV, "write");

	child = fork();
	need(child >= 0, "fork");
	if (!child)
		change(key);
	poller = (struct pollfd){ .fd = ends[0], .events = POLLIN };
	while (seen < RECORDS && poll(&poller, 1, 10000) > 0) {
		need(ioctl(ends[0], FIONREAD, &queued) == 0 && queued >= 8, "FIONREAD");
		ssize_t size = read(ends[0], buffer, sizeof buffer);
		need(size > 0, "read");
		for (ssize_t at = 0; at < size; at += buffer[at + 4] & 0x7f, seen++)
			print(buffer + at, session, key);
	}
	need(waitpid(child, NULL, 0) == child, "wait");
	close(ends[1]);
	need(poll(&poller, 1, 10000) == 1 && poller.revents & POLLHUP, "hang-up");
	need(read(ends[0], buffer, sizeof buffer) == 0, "end of file");
	printf("end\n");
	return seen == RECORDS ? 0 : 1;
}
