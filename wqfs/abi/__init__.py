"""Bytes to meaning and back, and nothing else: no I/O, no clock, no state.

records   notification records (linux/watch_queue.h)
filters   the filter of a notification pipe (IOC_WATCH_QUEUE_SET_FILTER)
polling   events of poll(2)
ioctls    ioctl numbers and the structures of wqfs's own ones (wqfs.h is the same for C)
fuse      the FUSE messages that wqfs speaks itself (linux/fuse.h)
"""
