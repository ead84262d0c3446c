/* What a system call costs a program: run_client MODE COUNT prints `median_ns VALUE`, of batches. As run_client -f
 * under a seccomp filter of its own that allows everything. Compared outside and under `wqfs run` (run.py). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 31, GET_KEYRING_ID = 0, SESSION = -3 };

static int null_fd, plain[2];

static void allow_all(void)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 1, code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		exit(2);
}

static int one(const char *mode)
{
	int ends[2], queued;

	if (!strcmp(mode, "getpid"))
		return syscall(SYS_getpid) > 0;
	if (!strcmp(mode, "write"))
		return write(null_fd, "x", 1) == 1;
	if (!strcmp(mode, "ioctl"))
		return ioctl(plain[0], FIOCLEX) == 0;
	if (!strcmp(mode, "fionread"))
		return ioctl(plain[0], FIONREAD, &queued) == 0;
	if (!strcmp(mode, "keyctl"))
		return syscall(SYS_keyctl, GET_KEYRING_ID, SESSION, 0) > 0;
	if (!strcmp(mode, "pipe2"))
		return pipe2(ends, O_EXCL | O_CLOEXEC) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0;
	if (!strcmp(mode, "plain"))
		return pipe2(ends, O_CLOEXEC) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0;
	return 0;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	double batches[BATCHES];
	struct timespec from, to;
	int filter = argc > 1 && !strcmp(argv[1], "-f");
	const char *mode = argc > 2 + filter ? argv[1 + filter] : "";
	long count = argc > 2 + filter ? atol(argv[2 + filter]) : 0;

	null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (count < 1 || null_fd < 0 || pipe(plain))
		return 2;
	if (filter)
		allow_all();
	for (int batch = 0; batch < BATCHES; batch++) {
		clock_gettime(CLOCK_MONOTONIC, &from);
		for (long n = 0; n < count; n++)
			if (!one(mode)) {
				fprintf(stderr, "%s failed\n", mode);
				return 1;
			}
		clock_gettime(CLOCK_MONOTONIC, &to);
		batches[batch] = ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / count;
	}
	qsort(batches, BATCHES, sizeof *batches, ascending);
	printf("median_ns %.1f\n", batches[BATCHES / 2]);
	return 0;
}
