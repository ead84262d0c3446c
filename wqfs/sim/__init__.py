"""The simulated system: state machines that post records because something changed.

errors     what a refused command says
mounts     the mount tree
superblocks  what is mounted
keyring    keys and keyrings
system     all of it together, and the one place where events are made
language   the command language of `post`
views      the files of sim/
"""
