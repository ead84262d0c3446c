/* The one client for all servers: a system call in a loop, or two processes and a clock.
 *
 * Run: client MODE QUEUE RECORDS POST TEXT COUNT, where QUEUE may be "pipe" for a plain pipe, "-"
 * is no file, and TEXT is one command without its newline. Prints `name value` lines: nanoseconds of an operation
 * over COUNT samples. Whatever an operation answers is checked; a wrong answer is told on standard
 * error and ends with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RECORD = 16, BLOCK = 512, BATCH = 256, TEXT_BLOCK = 1 << 16, WARM_UP = 4 };
enum { TIME_LIMIT_S = 120, SETTLE_NS = 300000 };
#define SET_SIZE 0x5760ul
#define UNKNOWN 0x5762ul

struct record { uint32_t type, info, key, serial; };

static const char *mode;
static int queue = -1, drain_queue = -1, records = -1, post = -1, is_pipe;
static char line[256], text[TEXT_BLOCK];
static size_t line_length, text_length, text_lines;
static struct record block[BLOCK], scratch[BLOCK];

static void die(const char *what, long got)
{
    fprintf(stderr, "client %s: %s, not %ld (%s)\n", mode, what, got, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000ll + at.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void tell(double *samples, size_t count)
{
    double sum = 0;
    printf("first_ns %.1f\n", samples[0]);
    for (size_t i = 0; i < count; i++)
        sum += samples[i];
    qsort(samples, count, sizeof *samples, ascending);
    printf("median_ns %.1f\np99_ns %.1f\nmean_ns %.1f\nmax_ns %.1f\n", samples[count / 2],
           samples[count * 99 / 100], sum / count, samples[count - 1]);
}

/* ---- the files ---- */

static int opened(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "client %s: open %s: %s\n", mode, path, strerror(errno));
        exit(1);
    }
    return fd;
}

static void drain(void)
{
    static char bytes[1 << 16];
    while (read(drain_queue, bytes, sizeof bytes) > 0)
        ;
    if (errno != EAGAIN)
        die("drain: expected EAGAIN", errno);
}

static void open_all(const char *queue_path, const char *records_path, const char *post_path, int flags)
{
    char path[64];
    int ends[2];
    is_pipe = !strcmp(queue_path, "pipe");
    if (is_pipe) {
        if (pipe(ends))
            die("pipe: expected 0", -1);
        snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
        queue_path = path;
        records = ends[1];
    }
    if (strcmp(records_path, "-"))
        records = opened(records_path, O_WRONLY);
    if (strcmp(post_path, "-"))
        post = opened(post_path, O_WRONLY);
    queue = opened(queue_path, O_RDONLY | flags);
    drain_queue = opened(queue_path, O_RDONLY | O_NONBLOCK);
    /* ENOTTY: a peer without ioctl, whose ring is deeper anyway; EBUSY: sized by a run before. */
    if (!is_pipe && ioctl(queue, SET_SIZE, BLOCK) && errno != EBUSY && errno != ENOTTY)
        die("SET_SIZE: expected 0", errno);
    drain();
}

static void write_all(int fd, const void *bytes, size_t size)
{
    for (size_t at = 0; at < size; ) {
        ssize_t wrote = write(fd, (const char *)bytes + at, size - at);
        if (wrote <= 0)
            die("write: expected a count", wrote);
        at += wrote;
    }
}

static void fill_block(void)
{
    static uint32_t serial;
    for (int i = 0; i < BLOCK; i++)
        block[i] = (struct record){1 | 1u << 24, RECORD, 5, serial++};
}

/* ---- one operation, in batches ---- */

static void no_setup(void) {}
static void fill_queue(void) { write_all(records, block, BATCH * RECORD); }

static void read_one(void)
{
    ssize_t got = read(queue, scratch, RECORD);
    if (got != RECORD)
        die("read: expected 16", got);
}

static void read_empty(void)
{
    ssize_t got = read(queue, scratch, RECORD);
    if (got != -1 || errno != EAGAIN)
        die("read: expected EAGAIN", got);
}

static void poll_empty(void)
{
    struct pollfd item = {.fd = queue, .events = POLLIN};
    int ready = poll(&item, 1, 0);
    if (ready)
        die("poll: expected 0", ready);
}

static void ioctl_unknown(void)
{
    int answer;
    if (is_pipe ? ioctl(queue, FIONREAD, &answer) : !ioctl(queue, UNKNOWN, 0) || errno != ENOTTY)
        die("ioctl: expected ENOTTY, of a pipe 0", errno);
}

static void ioctl_busy(void)
{
    if (!ioctl(queue, SET_SIZE, BLOCK) || errno != EBUSY)
        die("ioctl: expected EBUSY", errno);
}

static void write_record(void) { write_all(records, block, RECORD); }
static void write_line(void) { write_all(post, line, line_length); }

static const struct { const char *mode; void (*setup)(void), (*operation)(void), (*after)(void); } operations[] = {
    {"read", fill_queue, read_one, no_setup},        {"read_empty", no_setup, read_empty, no_setup},
    {"poll", no_setup, poll_empty, no_setup},        {"ioctl", no_setup, ioctl_unknown, no_setup},
    {"ioctl_busy", no_setup, ioctl_busy, no_setup},  {"write", no_setup, write_record, drain},
    {"post_line", no_setup, write_line, drain},
};

static void batches(void (*setup)(void), void (*operation)(void), void (*after)(void), double *samples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        setup();
        int64_t start = now_ns();
        for (int n = 0; n < BATCH; n++)
            operation();
        samples[i] = (now_ns() - start) / (double)BATCH;
        after();
    }
    tell(samples, count);
}

/* The write system calls alone, one by one; nobody reads (a fan-out's depth is the harness's care). */
static void single_writes(double *samples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int64_t start = now_ns();
        write_record();
        samples[i] = now_ns() - start;
    }
    tell(samples, count);
}

static void text_blocks(double *samples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int64_t start = now_ns();
        write_all(post, text, text_length);
        samples[i] = (now_ns() - start) / (double)text_lines;
        drain();
    }
    tell(samples, count);
}

#include "client_readers.h"

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: client MODE QUEUE RECORDS POST TEXT COUNT\n");
        return 1;
    }
    mode = argv[1];
    alarm(TIME_LIMIT_S);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    size_t count = strtoul(argv[6], NULL, 10);
    double *samples = calloc(count, sizeof *samples);
    open_all(argv[2], argv[3], argv[4], strcmp(mode, "read_empty") ? 0 : O_NONBLOCK);
    line_length = snprintf(line, sizeof line, "%s\n", argv[5]);
    for (; text_length + line_length <= sizeof text; text_length += line_length, text_lines++)
        memcpy(text + text_length, line, line_length);
    if (strcmp(mode, "throughput"))
        fill_block();
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (!strcmp(mode, operations[i].mode)) {
            batches(operations[i].setup, operations[i].operation, operations[i].after, samples, count);
            return 0;
        }
    if (!strcmp(mode, "post_block"))
        text_blocks(samples, count);
    else if (!strcmp(mode, "write_alone"))
        single_writes(samples, count);
    else if (!strcmp(mode, "wake"))
        wake(write_record, samples, count);
    else if (!strcmp(mode, "wake_text"))
        wake(write_line, samples, count);
    else if (!strcmp(mode, "throughput"))
        throughput(count);
    else if (!strcmp(mode, "readers"))
        readers(NULL, count);
    else if (!strcmp(mode, "readers_apart"))
        readers(argv[2], count);
    else
        die("expected a mode named in main", 0);
    return 0;
}
