"""The files of sim/ as text. Bytes of names that are no UTF-8 stand in it as os.fsdecode() has them.

mountinfo    as /proc/self/mountinfo: proc(5), escapes as in fs/proc_namespace.c of Linux 6.12
superblocks  a line each, fields parted by blanks, no heading:
                 id  major:minor  type  state  options  source
             state: `ok`, or of `error`, `full`, `frozen`, `down` those that hold, in this order, with commas;
             options: `ro` or `rw` first
snapshot     one JSON document, one line

`keys` and `key-users` are in key_views. Nothing is kept here: System.changed says when to ask again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from wqfs.abi.errors import ERRNO_NAMES
from wqfs.sim.command import Actor
from wqfs.sim.devices import BlockDevice
from wqfs.sim.keys import Keyring, Need, permits, shown_gid
from wqfs.sim.mount_options import attribute_text
from wqfs.sim.mounts import OUTSIDE_ID, Mount, MountTree
from wqfs.sim.processes import Process
from wqfs.sim.superblocks import Superblock, Superblocks
from wqfs.sim.system import System

_UNSAFE = re.compile(r"[ \t\n\\]")
_UNSAFE_WORD = re.compile(r"[ \t\n\\#]")


def _octal(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]):03o}"


def _path(path: str) -> str:
    return _UNSAFE.sub(_octal, path)


def _word(word: str) -> str:
    """A source or type. Of these the kernel escapes # too, not of paths: /etc/mtab once had comments."""
    return _UNSAFE_WORD.sub(_octal, word)


def mountinfo(tree: MountTree) -> str:
    """All mounts, in the order of their ids."""
    return "".join([_mountinfo_line(mount) for mount in tree.by_id.values()])


def _mountinfo_line(mount: Mount) -> str:
    sb = mount.sb
    parent = OUTSIDE_ID if mount.parent is None else mount.parent.id
    optional = "".join([f" {field}" for field in propagation_fields(mount)])
    return (
        f"{mount.id} {parent} {sb.device_text} /{_path('/'.join(mount.root))} {_path(mount.path)} "
        f"{attribute_text(mount.attr)}{optional} - "
        f"{_word(sb.fstype)} {_word(sb.source)} {_path(sb.option_text)}\n"
    )


def propagation_fields(mount: Mount) -> list[str]:
    """The optional fields of mountinfo. propagate_from:N never comes: it names a group that stands in
    for a master outside the reader's root, and all here have one root (get_dominating_id)."""
    fields = []
    if mount.group is not None:
        fields.append(f"shared:{mount.group.id}")
    if mount.master is not None:
        assert mount.master.group is not None
        fields.append(f"master:{mount.master.group.id}")
    if mount.unbindable:
        fields.append("unbindable")
    return fields


def superblocks(table: Superblocks) -> str:
    """All superblocks, in the order of their ids."""
    return "".join([_superblocks_line(sb) for sb in table.by_id.values()])


def _superblocks_line(sb: Superblock) -> str:
    fields = (sb.id, sb.device_text, _word(sb.fstype), sb.state, _path(sb.option_text), _word(sb.source))
    return " ".join(map(str, fields)) + "\n"


def snapshot(system: System, viewer: Actor | None, now_ns: int) -> str:
    """Everything, as JSON; of the keys those that grant View to `viewer`, of the processes those of
    that user, all for None.

    seq: the number of the last event that is included; mounts, superblocks, devices, keys: lists, each
    object with the number of the event that `changed` it last, 0 for none; of superblocks
    that of their `last_error` too; processes: each with the
    serial numbers of its keyrings, null where it has none. Text depends on the
    time only by the `state` of keys that expire.
    """
    document = {
        "seq": system.watches.last_event,
        "mounts": [_mount(mount) for mount in system.mounts.by_id.values()],
        "superblocks": [_superblock(sb) for sb in system.superblocks.by_id.values()],
        "devices": [_device(device) for device in system.superblocks.devices.by_name.values()],
        "keys": list(_keys(system, viewer, now_ns)),
        "processes": [_process(process) for process in system.processes if viewer is None or process.uid == viewer.uid],
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def _mount(mount: Mount) -> dict[str, object]:
    return {
        "id": mount.id,
        "parent": OUTSIDE_ID if mount.parent is None else mount.parent.id,
        "mountpoint": mount.path,
        "root": "/" + "/".join(mount.root),
        "options": attribute_text(mount.attr).split(","),
        "propagation": propagation_fields(mount),
        "sb": mount.sb.id,
        "fstype": mount.sb.fstype,
        "source": mount.sb.source,
        "device": mount.sb.device_text,
        "changed": mount.changed,
    }


def _superblock(sb: Superblock) -> dict[str, object]:
    return {
        "id": sb.id,
        "device": sb.device_text,
        "fstype": sb.fstype,
        "source": sb.source,
        "state": sb.state,
        "read_only": sb.read_only,
        "fill_percent": sb.fill_percent,
        "last_error": sb.last_error,
        "options": list(sb.options),
        "mounts": list(sb.mounts),
        "changed": sb.changed,
    }


def _device(device: BlockDevice) -> dict[str, object]:
    return {
        "name": device.name,
        "device": f"{device.number[0]}:{device.number[1]}",
        "state": device.state,
        "changed": device.changed,
    }


def _process(process: Process) -> dict[str, object]:
    return {
        "name": process.name,
        "uid": process.uid,
        "gid": process.gid,
        "session": _serial(process.session),
        "process_keyring": _serial(process.ring),
        "threads": {name: _serial(ring) for name, ring in process.threads.items()},
    }


def _serial(ring: Keyring | None) -> int | None:
    return None if ring is None else ring.serial


def _keys(system: System, viewer: Actor | None, now_ns: int) -> Iterable[dict[str, object]]:
    for key in system.keys.by_serial.values():
        possessed = viewer is not None and system.keys.possesses(viewer, key)
        if viewer is not None and not permits(key, viewer, Need.VIEW, possessed=possessed):
            continue
        wrong = key.refusal(now_ns)
        members = {
            "serial": key.serial,
            "type": key.type.name,
            "description": key.description,
            "state": ERRNO_NAMES.get(wrong, str(wrong)) if wrong else "ok",
            "uid": key.uid,
            "gid": shown_gid(key.gid),
            "perm": key.perm,
            "changed": key.changed,
        }
        if isinstance(key, Keyring) and (viewer is None or permits(key, viewer, Need.READ, possessed=possessed)):
            members["links"] = [linked.serial for linked in key.links.values()]
        yield members
