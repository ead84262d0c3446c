/* wqfs.h: ioctls of wqfs's `queue` files beside the kernel's own (linux/watch_queue.h).
 *
 * They go to a descriptor of a queue, opened for reading or for writing. Watch IDs are 0..255 to
 * add a watch and -1 to remove it, as with keyctl(KEYCTL_WATCH_KEY). Errors:
 *   EINVAL    an ID outside -1..255; a path that is not absolute or has no ending zero byte; for
 *             a superblock, nothing known by that name
 *   EBUSY     the object is watched by this queue already
 *   EBADSLT   removing what is not watched
 *   ENOKEY, EKEYREVOKED, EACCES   as keyctl(2) for that key (watching needs View)
 *   EDQUOT    more watched objects than the mount allows
 * MIT licence, see LICENSE.
 */
#ifndef WQFS_H
#define WQFS_H

#include <linux/ioctl.h>
#include <linux/types.h>

struct wqfs_watch_key {
	__s32 key;		/* serial number as in sim/keys, or -3 for the session keyring */
	__s32 id;
};

struct wqfs_watch_path {
	__s32 id;
	char path[4096];	/* absolute, in the simulated system, ended by a zero byte */
};

struct wqfs_watch_devices {
	__s32 id;
};

/* The same as a process of the simulated system (sim/snapshot lists them), by the rights and keyrings that it has;
 * thread: "" for its first one. EPERM for another user's process, unless one is root; ESRCH without it. */
struct wqfs_watch_key_as {
	__s32 key;
	__s32 id;
	char process[64];
	char thread[64];
};

/* size: of the record, 8..127 and as its own length says; with 0 nothing is delivered, but the queue ends to hear of
 * everything, as with its first watched object. EINVAL for another size. */
struct wqfs_deliver {
	__u32 size;
	char record[128];
};

struct wqfs_queued {
	__u32 records;		/* queued, the loss record not counted */
	__u32 bytes;		/* of these; what FIONREAD says on a kernel's notification pipe */
	__u32 loss;		/* 1: the next thing to be read is a loss record */
	__u32 depth;		/* records that fit, 0 before the queue is sized */
};

#define WQFS_IOC_WATCH_KEY	_IOW('W', 0x70, struct wqfs_watch_key)
#define WQFS_IOC_WATCH_MOUNT	_IOW('W', 0x71, struct wqfs_watch_path)
#define WQFS_IOC_WATCH_SB	_IOW('W', 0x72, struct wqfs_watch_path)
#define WQFS_IOC_WATCH_DEVICES	_IOW('W', 0x73, struct wqfs_watch_devices)
#define WQFS_IOC_QUEUED		_IOR('W', 0x74, struct wqfs_queued)

#define WQFS_IOC_WATCH_KEY_AS	_IOW('W', 0x76, struct wqfs_watch_key_as)

/* Put one notification record into this queue alone, with the watch's ID that it names: through the queue's filter,
 * or past it for META. It gets a number of its own, and a line in `log` and `events`. */
#define WQFS_IOC_DELIVER	_IOW('W', 0x77, struct wqfs_deliver)

/* A barrier: waits until all that was queued has been read, a loss record too. The argument is 0 or
 * WQFS_SETTLE_READERS: then it also returns once nobody has the queue open for reading (open it for
 * writing alone, so as not to count). EINTR on a signal, EPIPE when the mount ends before, ENOMEM
 * when too many calls wait. What has been read may still be at work in its reader. */
#define WQFS_IOC_SETTLE		_IO('W', 0x75)
#define WQFS_SETTLE_READERS	0x1

/* The kernel's own two, for programs that cannot include linux/watch_queue.h: it includes
 * linux/fcntl.h, which does not go together with fcntl.h. */
#ifndef IOC_WATCH_QUEUE_SET_SIZE
#define IOC_WATCH_QUEUE_SET_SIZE	_IO('W', 0x60)
#define IOC_WATCH_QUEUE_SET_FILTER	_IO('W', 0x61)
#endif

/* IOC_WATCH_QUEUE_SET_FILTER with its filter of n rules carried by value: needs no access of the
 * server to the caller's memory. n = 0 removes the filter, as a null pointer does. */
#define WQFS_IOC_SET_FILTER(n)	_IOC(_IOC_WRITE, 'W', 0x61, 8 + 44 * (n))

#endif
