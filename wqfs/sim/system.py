"""The simulated system: mounts, superblocks, keys, block devices, and the one place where their events
are made.

State first: whoever changes something changes all of it, then comes here. The event gets its
number, the object that it is about carries that number as `changed`, then the watches are told. So
a snapshot with the number N shows everything up to event N.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Mapping, Sequence

from wqfs.abi import records as r
from wqfs.event import NameValue
from wqfs.sim.command import Actor
from wqfs.sim.devices import BlockDevice, Devices
from wqfs.sim.errors import Refused
from wqfs.sim.keyring import Keyrings
from wqfs.sim.keys import Key, Need, Quota
from wqfs.sim.language import find, quote, split
from wqfs.sim.limits import SimLimits
from wqfs.sim.mount_descriptors import Descriptors
from wqfs.sim.mounts import IN_SUBTREE, Heard, Mount, MountTree, audience
from wqfs.sim.processes import Processes
from wqfs.sim.superblocks import Superblock, Superblocks
from wqfs.watch import Entry, Group, Place, Watchable
from wqfs.watches import Watches

_MOUNT_RECORD = struct.Struct(r.HEADER.format + r.MOUNT_BODY.format[1:])
_KEY_RECORD = struct.Struct(r.HEADER.format + r.KEY_BODY.format[1:])
_KEY = int(r.WatchType.KEY_NOTIFY)
_WITH_A_KEY = (r.KeySubtype.LINKED, r.KeySubtype.UNLINKED)  # aux is a key's serial number
_COMING_OR_GOING = (r.MountSubtype.NEW_MOUNT, r.MountSubtype.UNMOUNT)
_MOUNT = int(r.WatchType.MOUNT_NOTIFY)


def _alone(target: Watchable) -> tuple[tuple[Group, int], ...]:
    """Who hears of what happens to an object that has no other around it."""
    group = target.watchers_at()
    return ((group, 0),) if group else ()


class System:
    """Everything simulated, and the watches that are told.

    ahead_ns: how far `clock advance` has put its clock forward; who passes the time in adds it.
    changed: counts changes of any kind, to key caches of the views on: while it and
    `watches.last_event` stand still, no text but that of keys with an expiry changes.
    """

    def __init__(self, watches: Watches, *, now_ns: int, limits: SimLimits = SimLimits()) -> None:  # noqa: B008  frozen
        """A system with a root mount, from /dev/root, and no keys but the keyrings of who runs it."""
        self.watches = watches
        self.changed = 0
        self.ahead_ns = 0
        self.superblocks = Superblocks(max_devices=limits.devices)
        root = self.superblocks.get("/dev/root", "ext4", False)
        self.mounts = MountTree(root, max_mounts=limits.mounts, max_text=limits.mount_text)
        self.descriptors = Descriptors(limits.descriptors)
        self.devices = Devices()
        self.keys: Keyrings = Keyrings(
            notify=self.notify_key,
            gone=self._key_gone,
            quota=Quota(maxkeys=limits.user_keys, maxbytes=limits.user_key_bytes),
            max_keys=limits.keys,
            max_processes=limits.processes,
            max_threads=limits.threads,
        )
        self.keys.on_silent = self.changed_silently
        self.started_ns = now_ns
        self.removal_delay_ns = 0
        """How long after its end a key's watches are told: a kernel's collector comes later too, but nothing in here
        that a command does is to be waited for."""
        self._ended: deque[tuple[int, Key]] = deque()

    # -- commands

    def run(self, line: str, actor: Actor, now_ns: int) -> None:
        """Carry out one command line; a line without words does nothing.

        Keys that expired long ago are collected first, for nothing here runs by itself. Raises
        Refused, and then the command has done nothing (but `umount` of several, see there): EINVAL,
        with the word at fault, for what is no command, else what the kernel would answer.
        """
        words = split(line)
        if words:
            command, count = find(words)
            self.changed += 1
            self.keys.collect(now_ns)
            self._tell_ended(now_ns)
            with self.watches.together():
                command.run(self, actor, words[count:], now_ns)
            self.mark_touched()

    def mark_touched(self) -> None:
        """Mounts that changed without an event of their own carry the number of the next event."""
        if not self.mounts.groups.touched:
            return
        number = self.watches.last_event + 1
        for mount in self.mounts.groups.touched:
            mount.changed = number
        self.mounts.groups.touched.clear()

    def run_words(self, words: Sequence[str], actor: Actor, now_ns: int) -> None:
        """The command within a command, such as that of `as`. Raises as `run`."""
        command, count = find(words)
        command.run(self, actor, words[count:], now_ns)

    @property
    def processes(self) -> Processes:
        """The simulated processes."""
        return self.keys.processes

    def resolve(self, words: Sequence[str], actor: Actor, now_ns: int) -> tuple[Watchable, Place, str]:
        """The object that a line of `objects` names, the place within it, and how to write it.

        words: `mount PATH`, `sb PATH|SOURCE|ID`, `key KEY`, `devices`. Raises Refused with the
        word: EINVAL, EACCES for what is private, and for keys what keyctl_watch_key() would answer (needs View).
        """
        kind = words[0] if words else ""
        if kind not in ("mount", "sb", "key", "devices"):
            raise Refused(errno.EINVAL, f"expected mount, sb, key, devices or everything, not {kind!r}", 1)
        if kind != "key" and self.watches.private and not self.watches.trusts(actor.uid):
            raise Refused(errno.EACCES, "expected a key: all else is the owner's alone (private_mounts)", 1)
        if kind == "devices":
            if len(words) > 1:
                raise Refused(errno.EINVAL, f"expected nothing after devices, not {words[1]!r}", 2)
            return self.devices, (), "devices"
        if len(words) != 2:
            word = 2 if len(words) < 2 else 3
            raise Refused(errno.EINVAL, f"expected one word after {kind}, not {len(words) - 1}", word)
        name = words[1]
        try:
            if kind == "mount":
                mount, place = self.mounts.lookup(name)
                path = mount.path if not place else f"{mount.path.rstrip('/')}/{'/'.join(place)}"
                return mount, place, f"mount {quote(path)}"
            if kind == "sb":
                sb, path = self.find_sb(name)
                return sb, (), f"sb {quote(path)}"
            key, _ = self.keys.lookup(actor, name, Need.VIEW, now_ns, create=True)
            return key, (), f"key {key.serial}"
        except Refused as refused:
            refused.word = refused.word or 2
            raise

    def find_sb(self, name: str) -> tuple[Superblock, str]:
        """The superblock that `name` means, and its name for people: an id, a source, or any path on it.
        A mountpoint comes before a source of the same name. Raises EINVAL."""
        if name.isdecimal():
            sb = self.superblocks.by_id.get(int(name)) if len(name) < 20 else None
            if sb is None:
                raise Refused(errno.EINVAL, f"expected the id of a superblock, not {name}")
            mount = next(iter(sb.mounts.values()), None)
            return sb, sb.source if mount is None else mount.path
        found = None
        if name[:1] == "/":
            mount, place = self.mounts.lookup(name)
            if not place:
                return mount.sb, mount.path
            found = mount
        by_source = self.mounts.find_source(name)
        if by_source is not None:
            return by_source.sb, by_source.path
        if found is None:
            raise Refused(errno.EINVAL, f"expected a path, a source or an id of a superblock, not {name!r}")
        path = f"{found.path.rstrip('/')}/{'/'.join(place)}"
        # What is also a source would mean another one when it is read again.
        return found.sb, path if self.mounts.find_source(path) is None else str(found.sb.id)

    # -- events

    def notify_mount(
        self,
        subtype: r.MountSubtype,
        trigger: Mount,
        place: Place,
        aux: Mount | None,
        now_ns: int,
        flags: int = 0,
        names: Mapping[str, NameValue] | None = None,
        heard: Heard | None = None,
    ) -> None:
        """A mount event. trigger: where it happens, at `place` within it; aux: the mount that it is
        about, None if that is `trigger`; flags: as in `info`, but for IN_SUBTREE; names: further ones;
        heard: its audience, None for what `audience` says now."""
        about = trigger if aux is None else aux
        called: dict[str, NameValue] = {
            "mountpoint": about.path, "source": about.sb.source, "fstype": about.sb.fstype
        }  # fmt: skip
        if aux is not None:
            called["parent"] = trigger.path
        if names:
            called.update(names)
        record = _MOUNT_RECORD.pack(
            _MOUNT | subtype << 24, flags | _MOUNT_RECORD.size, trigger.id, 0 if aux is None else aux.id
        )
        self.mark_touched()
        event = self.watches.event(now_ns, record, called)
        about.changed = event.number
        if subtype in _COMING_OR_GOING:
            about.sb.changed = event.number  # it has one mount more or less
        self.changed += 1
        everything = 0 if trigger is self.mounts.root else IN_SUBTREE
        self.watches.publish(event, audience(trigger, place) if heard is None else heard, everything)

    def notify_sb(
        self,
        subtype: r.SbSubtype,
        sb: Superblock,
        now_ns: int,
        flags: int = 0,
        body: bytes = b"",
        names: Mapping[str, NameValue] | None = None,
    ) -> None:
        """A superblock event. body: what follows the superblock's id."""
        called: dict[str, NameValue] = {
            "device": sb.device_text, "source": sb.source, "fstype": sb.fstype
        }  # fmt: skip
        for mount in sb.mounts.values():
            called["mountpoint"] = mount.path
            break
        if names:
            called.update(names)
        record = r.encode(r.WatchType.SB_NOTIFY, subtype, r.SB_BODY.pack(sb.id) + body, flags=flags)
        event = self.watches.event(now_ns, record, called)
        sb.changed = event.number
        self.changed += 1
        self.watches.publish(event, _alone(sb))

    def notify_key(self, key: Key, subtype: r.KeySubtype, aux: int, now_ns: int) -> None:
        """A key event. aux: as in the record, a key's serial number or a positive errno."""
        called: dict[str, NameValue] = {"description": key.description, "key_type": key.type.name}
        aux_key = self.keys.by_serial.get(aux) if subtype in _WITH_A_KEY else None
        if aux_key is not None:
            called["aux_description"] = aux_key.description
        record = _KEY_RECORD.pack(_KEY | subtype << 24, _KEY_RECORD.size, key.serial, aux)
        event = self.watches.event(now_ns, record, called)
        key.changed = event.number
        self.changed += 1

        def may_see(uid: int, gid: int) -> bool:
            """As a watch on the key would need: View on it, and on the one that is named with it."""
            viewer = Actor(uid, gid)
            return self.keys.may_view(viewer, key) and (aux_key is None or self.keys.may_view(viewer, aux_key))

        audience = key.watchers_at()
        if aux_key is not None:
            # As with keyctl(2), who watches a keyring sees which keys come and go by their numbers; what a key is
            # called shows it to who may view it alone.
            may_name = {entry: self._may_name(entry, aux_key) for entry in audience}
            if not all(may_name.values()):
                audience = tuple(entry for entry in audience if may_name[entry])
                self.watches.tell(
                    event.without("aux_description"), [entry for entry, may in may_name.items() if not may]
                )
        self.watches.publish(event, ((audience, 0),), may_see=may_see)

    def _may_name(self, entry: Entry, key: Key) -> bool:
        """Whether who watches by `entry` may know what `key` is called."""
        watch = entry.watch
        return self.watches.trusts(watch.uid) or self.keys.may_view(Actor(watch.uid, watch.gid), key)

    def notify_device(self, device: BlockDevice, subtype: r.BlockSubtype, sector: int, now_ns: int) -> None:
        """An error of a block device at a sector, 0..2^64-1."""
        major, minor = device.number
        number = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12  # new_encode_dev(), linux/kdev_t.h
        record = r.encode(r.WatchType.BLOCK_NOTIFY, subtype, r.BLOCK_BODY.pack(number, sector))
        event = self.watches.event(now_ns, record, {"device": f"{major}:{minor}", "source": device.name})
        device.changed = event.number
        self.changed += 1
        self.watches.publish(event, _alone(self.devices))

    def changed_silently(self, what: Superblock | BlockDevice | Key) -> None:
        """Something changed that no event tells of. It carries the number of the next event, so that who
        looks for what moved since the last one finds it."""
        what.changed = self.watches.last_event + 1
        self.changed += 1

    def _key_gone(self, key: Key, now_ns: int) -> None:
        if self.removal_delay_ns and key.watchers:
            self._ended.append((now_ns + self.removal_delay_ns, key))
        else:
            self.gone(key, now_ns)

    def _tell_ended(self, now_ns: int, due_ns: int | None = None) -> None:
        """Tell the watches of keys that have ended, of those alone whose time is `due_ns` or before."""
        while self._ended and (due_ns is None or self._ended[0][0] <= due_ns):
            self.gone(self._ended.popleft()[1], now_ns)

    def collect(self, now_ns: int) -> int | None:
        """Do what is due; returns when to call again, None for never, as things are."""
        self.keys.collect(now_ns)
        self._tell_ended(now_ns, now_ns)
        return self.next_due_ns

    @property
    def next_due_ns(self) -> int | None:
        """When `collect` has to be called, None: never, as things are."""
        due = [
            at for at in (self.keys.next_collection_ns, self._ended[0][0] if self._ended else None) if at is not None
        ]
        return min(due, default=None)

    def gone(self, target: Watchable, now_ns: int) -> None:
        """An object has ended: its watches go, and each says so."""
        self.changed += 1
        if target.watchers:
            self.watches.object_gone(target, now_ns)
