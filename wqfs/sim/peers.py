"""Who hears of mounts from whom: peer groups, masters and slaves (mount_namespaces(7)).

The rules, of fs/pnode.c in Linux 6.12:
- A shared mount is in a peer group; its peers get what is mounted on it, and give. A group's id is the
  lowest that is free.
- A slave has a master, which is a shared mount; it gets and does not give. A slave may be shared
  itself. The slaves of one master that are peers of each other stand together in its list, in the
  order of their group.
- A mount that is neither is private, or unbindable: then it cannot be the source of a bind mount.

The order of the lists is the kernel's: it is the order in which copies appear, and their events.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wqfs.sim.mounts import Mount


class PeerGroup:
    """id: as in mountinfo's `shared:N`; members: the shared mounts, a ring that begins anywhere."""

    __slots__ = ("id", "members")

    def __init__(self, id_: int, first: Mount) -> None:
        self.id = id_
        self.members = [first]

    def others(self, mount: Mount) -> list[Mount]:
        """The peers of a member, from the next one on."""
        at = self.members.index(mount)
        return self.members[at + 1 :] + self.members[:at]


class PeerGroups:
    """Changes of propagation types, and the ids of the groups."""

    def __init__(self) -> None:
        self._last_id = 0
        self._free: list[int] = []  # a heap
        self.touched: list[Mount] = []
        """Mounts that became others without an event of their own; emptied by who numbers events."""

    def make_shared(self, mount: Mount) -> None:
        """Into a group of its own, if it is in none. It stays a slave if it is one."""
        mount.unbindable = False
        self.touched.append(mount)
        if mount.group is None:
            if self._free:
                id_ = heapq.heappop(self._free)
            else:
                self._last_id += 1
                id_ = self._last_id
            mount.group = PeerGroup(id_, mount)

    def make_slave(self, mount: Mount) -> None:
        """Out of its group, to be a slave of one of its peers: the next one with the same root, else
        the next. Without peers of the master that it had; without one it is private. Its slaves
        become slaves of the same master (do_make_slave)."""
        group, old_master = mount.group, mount.master
        self.touched += (mount, *mount.slaves)
        mount.group = None
        if group is not None and len(group.members) > 1:
            peers = group.others(mount)
            master: Mount | None = next((peer for peer in peers if peer.root == mount.root), peers[0])
            group.members.remove(mount)
        else:
            if group is not None:
                heapq.heappush(self._free, group.id)
            master = old_master
        for slave in mount.slaves:
            slave.master = master
        if old_master is not None:
            old_master.slaves.remove(mount)
        if master is not None:
            master.slaves.insert(0, mount)
            master.slaves += mount.slaves
        mount.slaves = []
        mount.master = master

    def make_private(self, mount: Mount, *, unbindable: bool = False) -> None:
        """Out of its group, and nobody's slave."""
        if mount.group is not None or mount.master is not None:
            self.make_slave(mount)
            if mount.master is not None:
                mount.master.slaves.remove(mount)
                mount.master = None
        mount.unbindable = unbindable
        self.touched.append(mount)

    @staticmethod
    def join(copy: Mount, old: Mount) -> None:
        """Make a copy what `old` is: a peer of it, a slave of the same master, or private (clone_mnt)."""
        if old.group is not None:
            old.group.members.insert(old.group.members.index(old) + 1, copy)
            copy.group = old.group
        if old.master is not None:
            slaves = old.master.slaves
            slaves.insert(slaves.index(old) + 1, copy)
            copy.master = old.master

    def enslave(self, copy: Mount, old: Mount, *, shared: bool) -> None:
        """Make a copy a slave of `old`, shared in a group of its own or not (clone_mnt, CL_SLAVE)."""
        if shared:
            self.make_shared(copy)
        old.slaves.insert(0, copy)
        copy.master = old


def are_peers(one: Mount, other: Mount) -> bool:
    return one.group is not None and one.group is other.group


def receivers(origin: Mount) -> Iterator[Mount]:
    """Who gets what is mounted on a shared mount, itself left out, in the order in which copies are
    made: its peers, then each group of slaves, the slaves of a group before the next group
    (propagate_mnt)."""
    assert origin.group is not None
    peers = origin.group.others(origin)
    yield from peers
    pending = [_slave_groups((origin, *peers))]
    while pending:
        group = next(pending[-1], None)
        if group is None:
            pending.pop()
        else:
            yield from group
            pending.append(_slave_groups(group))


def _slave_groups(masters: Iterable[Mount]) -> Iterator[list[Mount]]:
    """The slaves of these mounts, peers together."""
    for master in masters:
        run: list[Mount] = []
        for slave in master.slaves:
            if run and not are_peers(run[-1], slave):
                yield run
                run = []
            run.append(slave)
        if run:
            yield run


def hearers(origin: Mount) -> Iterator[Mount]:
    """The same mounts as `receivers`, in the order in which an unmount reaches them: all slaves of a
    mount, each before its own slaves, before the next peer (propagation_next)."""
    if origin.group is None:
        return
    for peer in (origin, *origin.group.others(origin)):
        if peer is not origin:
            yield peer
        pending = list(reversed(peer.slaves))
        while pending:
            slave = pending.pop()
            yield slave
            pending.extend(reversed(slave.slaves))
