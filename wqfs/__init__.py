"""wqfs: the Linux notification pipe ("watch queue") as files, on any kernel.

The rooms, each of which imports only from those before it (tests/t1_layers.py holds them to it):

abi      bytes to meaning and back: records, filters, ioctls, FUSE messages
kept     how many bytes are kept for readers, and the bound
event    what happened, as bytes and as text; the streams behind `events` and `log`
queue    one notification pipe: ring, depth, loss, filter
watch    who watches which object under which ID; delivery
sim      the simulated system, where events are born; the command language
fs       the filesystem: /dev/fuse, pyfuse3, open files, the daemon
run      programs written for the kernel, on a mount: `wqfs run`
cli      the command `wqfs`

abi, kept, event, queue, watch and sim do no I/O, start no task and read no clock.
"""

__version__ = "0.1.0"
