"""The simulated system: state machines that post records because something changed.

system        all of it together, and the one place where events are made
command       what a command is, and who gives it; arguments reads them
language      a line becomes words, the words a command
mounts        the mount tree, and who hears of what; mounting and remounting have what can be done to it
mount_commands, mount_options   the words of mount(8) and umount(8)
superblocks   what is mounted; sb_commands
devices       what it is mounted from; device_commands
keys, key_search, key_store, processes, key_table, key_links, key_construction, key_sessions, keyring
              keys and keyrings, from one key and who has it to all operations
key_commands, key_request_commands, process_commands   the words of keyctl(1), and who gives them
calls, key_calls, mount_calls, context_calls, call_arguments, call_places
              the system calls of keys and mounts, for programs under `wqfs run`
mount_descriptors   what descriptors of the mount API name
objects       the lines of a watch's `objects`
views, key_views   the files of sim/
simulation    all of it for programs in Python, without a mount
completion    what may come next in a line
clock_commands   its time
scenario, expectation, scenario_toml, scenario_text, random_scenario
              what happens when, and what must come of it
errors        what it says when it refuses
"""

__all__ = ["COMMANDS", "Refused", "Simulation"]

from wqfs.sim.errors import Refused
from wqfs.sim.language import COMMANDS
from wqfs.sim.simulation import Simulation
