/* A notification queue served by libfuse's low-level API: the peer that wqfs is measured against.
 *
 * One thread, fuse_session_loop. `queue` (read, poll, ioctl), `records` (raw records in), `post`
 * (commands as text). A read of an empty queue keeps its request; a post answers it, an interrupt
 * ends it with EINTR. Rules and numbers: ABI.md, 1 and 2. Run: peer_lowlevel DIR -f
 */
#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>
#include <poll.h>
#include <unistd.h>

#include "peer_queue.h"

enum { ROOT = 1, QUEUE, RECORDS, POST, NODES };
enum { LINE = 4096, LARGEST_READ = 1 << 17 };
#define SET_SIZE 0x5760u

static const char *const names[NODES] = {"", "", "queue", "records", "post"};
static const mode_t modes[NODES] = {0, S_IFDIR | 0755, S_IFREG | 0600, S_IFREG | 0200, S_IFREG | 0200};

struct waiter { struct waiter *next, **link; fuse_req_t req; size_t size; };
struct opened { struct opened *next, **link; struct fuse_pollhandle *handle; size_t used; char line[LINE]; };

static struct waiter *waiters, **waiters_end = &waiters;
static struct opened *polled;

/* ---- who waits ---- */

static void forget(struct waiter *waiter)
{
    *waiter->link = waiter->next;
    if (waiter->next)
        waiter->next->link = waiter->link;
    else
        waiters_end = waiter->link;
    free(waiter);
}

static void interrupted(fuse_req_t req, void *data)
{
    forget(data);
    fuse_reply_err(req, EINTR);
}

static void answer_read(fuse_req_t req, size_t size)
{
    static uint8_t bytes[LARGEST_READ];
    ssize_t got = take(bytes, size < sizeof bytes ? size : sizeof bytes);
    if (got < 0)
        fuse_reply_err(req, -got);
    else
        fuse_reply_buf(req, (char *)bytes, got);
}

static void wake(void)
{
    while (waiters && (queued || loss_due)) {
        struct waiter *first = waiters;
        fuse_req_t req = first->req;
        size_t size = first->size;
        fuse_req_interrupt_func(req, NULL, NULL);
        forget(first);
        answer_read(req, size);
    }
    while (queued && polled) {
        struct opened *file = polled;
        polled = file->next;
        if (polled)
            polled->link = &polled;
        fuse_lowlevel_notify_poll(file->handle);
        fuse_pollhandle_destroy(file->handle);
        file->handle = NULL;
    }
}

static void unpoll(struct opened *file)
{
    if (!file->handle)
        return;
    *file->link = file->next;
    if (file->next)
        file->next->link = file->link;
    fuse_pollhandle_destroy(file->handle);
    file->handle = NULL;
}

static int post_text(struct opened *file, const char *text, size_t size)
{
    for (const char *end; (end = memchr(text, '\n', size)) != NULL; ) {
        size_t length = end - text;
        if (file->used + length >= LINE)
            return EINVAL;
        memcpy(file->line + file->used, text, length);
        file->line[file->used + length] = 0;
        file->used = 0;
        if (run(file->line))
            return EINVAL;
        size -= length + 1;
        text = end + 1;
    }
    if (file->used + size >= LINE)
        return EINVAL;
    memcpy(file->line + file->used, text, size);
    file->used += size;
    return 0;
}

/* ---- requests ---- */

static struct stat attributes(fuse_ino_t node)
{
    struct stat st = {.st_ino = node, .st_mode = modes[node], .st_nlink = node == ROOT ? 2 : 1};
    st.st_uid = getuid();
    st.st_gid = getgid();
    st.st_size = node == ROOT ? 0 : 4096;
    return st;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    for (fuse_ino_t node = QUEUE; parent == ROOT && node < NODES; node++)
        if (!strcmp(name, names[node])) {
            struct fuse_entry_param entry = {.ino = node, .attr = attributes(node), .attr_timeout = 1, .entry_timeout = 1};
            fuse_reply_entry(req, &entry);
            return;
        }
    fuse_reply_err(req, ENOENT);
}

static void do_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
    (void)info;
    struct stat st = attributes(node);
    fuse_reply_attr(req, &st, 1);
}

static void do_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
    struct opened *file = calloc(1, node == POST ? sizeof *file : offsetof(struct opened, line));
    if (node == ROOT || !file) {
        free(file);
        fuse_reply_err(req, node == ROOT ? EISDIR : ENOMEM);
        return;
    }
    info->fh = (uintptr_t)file;
    info->direct_io = info->nonseekable = 1;
    fuse_reply_open(req, info);
}

static void do_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
    (void)node;
    unpoll((struct opened *)info->fh);
    free((struct opened *)info->fh);
    fuse_reply_err(req, 0);
}

static void do_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *info)
{
    (void)node, (void)offset;
    if (queued || loss_due) {
        answer_read(req, size);
    } else if (info->flags & O_NONBLOCK) {
        fuse_reply_err(req, EAGAIN);
    } else {
        struct waiter *waiter = malloc(sizeof *waiter);
        if (!waiter) {
            fuse_reply_err(req, ENOMEM);
            return;
        }
        *waiter = (struct waiter){.link = waiters_end, .req = req, .size = size};
        *waiters_end = waiter;
        waiters_end = &waiter->next;
        fuse_req_interrupt_func(req, interrupted, waiter);
    }
}

static void do_write(fuse_req_t req, fuse_ino_t node, const char *bytes, size_t size, off_t offset, struct fuse_file_info *info)
{
    (void)offset;
    int error = EXDEV;
    if (node == RECORDS)
        error = post_records((const uint8_t *)bytes, size);
    else if (node == POST)
        error = post_text((struct opened *)info->fh, bytes, size);
    wake();
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_write(req, size);
}

static void do_poll(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info, struct fuse_pollhandle *handle)
{
    struct opened *file = (struct opened *)info->fh;
    if (handle) {
        unpoll(file);
        file->handle = handle;
        file->next = polled;
        file->link = &polled;
        if (polled)
            polled->link = &file->next;
        polled = file;
    }
    fuse_reply_poll(req, node != QUEUE ? POLLOUT | POLLWRNORM : queued ? POLLIN | POLLRDNORM : 0);
}

static void do_ioctl(fuse_req_t req, fuse_ino_t node, unsigned command, void *argument, struct fuse_file_info *info,
                     unsigned flags, const void *in, size_t in_size, size_t out_size)
{
    (void)info, (void)flags, (void)in, (void)in_size, (void)out_size;
    int error = node == QUEUE && command == SET_SIZE ? set_size((uintptr_t)argument) : ENOTTY;
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_ioctl(req, 0, NULL, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = do_lookup, .getattr = do_getattr, .open = do_open, .release = do_release,
    .read = do_read, .write = do_write, .poll = do_poll, .ioctl = do_ioctl,
};

int main(int argc, char **argv)
{
    struct fuse_args args = FUSE_ARGS_INIT(argc, argv);
    struct fuse_cmdline_opts options;
    if (fuse_parse_cmdline(&args, &options) || !options.mountpoint)
        return 1;
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, options.mountpoint))
        return 1;
    int result = fuse_session_loop(session);
    fuse_session_unmount(session);
    return result < 0 ? 1 : 0;
}
