"""The filesystem: all that talks to the kernel.

How a request flows:

    kernel <-> /dev/fuse <-> device <-> channel -- READ WRITE POLL IOCTL INTERRUPT RELEASE -> handles
                               |
                               +-- everything else -- SOCK_SEQPACKET --> pyfuse3 -> names -> nodes

and how an event comes out: handles/lines takes the command from `post`, control runs it in
sim.system, which makes the event; watch queues it; channel.wake fills who waits.

device      the loop that moves messages, where trio would wait; the only reader of /dev/fuse
channel     which message goes where, who waits, who is woken: bytes in, bytes out
handles/    open files: queue; text, events and log; the files that take lines or records; sim/calls
names       pyfuse3's Operations: lookup, attributes, directories, open
nodes       the tree: which place has which number and mode
filesystem  everything that one mount is made of, and what opening each place gives
control     what a line of post, objects, filter or depth does to the core
shares      how much of a table each user has
views, metrics, refusals   the texts: sim/*, status, metrics, errors
caller, caller_process, caller_helper, vm   reading the memory of who calls an ioctl, in processes of their users
mounting    fusermount3, and the mount table
privileges, keeper   becoming a service user for good, and the process that stays root to unmount
handover    a mount that goes over a socket to another process, which serves it
options     the mount command's arguments
session     one mount being served: its tasks, and the ways in which it ends
recorder    notes what comes in before anybody is answered; entries: in which form; journal: in which memory
checkpoint  the process that takes over when the daemon dies; succession: when a new one is made
taking_over, replay, answers   what that does first: all that was noted since, once more, with nobody answered twice
supervisor  who holds /dev/fuse all the while; for all of these see docs/how-to/survive.md
state       all of a mount as bytes, and back in another process
store, resuming   a mount that is left to the service manager, and the process that goes on with it
supervision, watchdog   what a service manager is told: ready, alive, stopping; and the looks that show it
service     who serves: as whom, under a supervisor or not, and the end of it
streams     the standard streams
daemon      the mount command: background, exit codes, log
logs        a log that neither floods nor waits
"""
