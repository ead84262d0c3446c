"""`wqfs run`: programs written for the kernel's notification pipes, unchanged, on a mount of wqfs.

How a call flows:

    program --seccomp filter--> listener -> supervisor -> pipes, keys, mounts --> the mount's files, sim/calls
       ^                                        |
       +-- the answer, descriptors, memory -----+

numbers     system calls by name, on x86-64 and arm64, and their constants
trap        the seccomp filter: which calls stop for the supervisor
listener    the descriptor on which they arrive and are answered
call        one stopped call: its arguments, the caller's memory and descriptors
tasks       who calls: a process's user, its life, and what it is called in the simulated system
simulated   asking the mount: its queues, and sim/calls
pipes       pipe2, ioctl, fcntl and write on a queue
mounts, contexts   mount and umount2, the mount API; places, the paths in their arguments; mount_files, what they return
path_watches   watch_mount, watch_sb
keys        add_key, request_key, keyctl, with simulated keys
kernel_keys the same with the kernel's own: watches, and their events; kernel_plans (which calls may have which),
            kernel_effects (and how they are seen), kernel_state (the keys as seen from here), kernel_sessions
progress    whether a call that went on in the kernel is over
supervisor  the loop, and who answers what
launch      the processes of a run: who starts, watches and ends whom; program, descendants
trace       an answered call as a line
"""
