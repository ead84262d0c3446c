"""pyfuse3's part: lookup, attributes, directories, open. Bytes are the channel's.

Reasons for the errnos: names come and go in `watches/` alone, so making or renaming anything else
is EPERM, as on a filesystem without that operation; removing the files of a watch is accepted and
does nothing, for `rm -r watches/NAME` does it on its way to the rmdir that counts.

Names change only through the kernel, so it may keep them (entry_timeout) for ever; sizes of text
may change at any moment, so attributes of text are asked each time.

FLUSH is left to pyfuse3, which answers ENOSYS: the kernel then never sends another, and a close
does not wait for the server.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar, cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from wqfs.fs import nodes
from wqfs.fs.filesystem import Filesystem, OpenRefused
from wqfs.fs.nodes import Place
from wqfs.watch import Watch
from wqfs.watches import WatchRefused

log = logging.getLogger(__name__)

FOR_EVER: Final = 10 * 365 * 86400.0
NAME_MAX: Final = 255
_LISTING_SHIFT: Final = 20
_NOBODY: Final = 65534
"""Who lists a directory that was opened before a successor took over: sizes are those that anybody sees."""
STREAM_SIZE: Final = 4096  # a size of 0 would end splice and busybox's cat at once


_Method = TypeVar("_Method", bound=Callable[..., Coroutine[Any, Any, Any]])


def _guarded(method: _Method) -> _Method:
    """A fault in one request answers EIO to that request, with its traceback in the log; what
    leaves a method as anything but FUSEError would end pyfuse3 and the mount with it."""

    @functools.wraps(method)
    async def guarded(*arguments: Any) -> Any:
        try:
            return await method(*arguments)
        except FUSEError:
            raise
        except Exception:
            log.exception("%s failed: answered with EIO", method.__name__)
            raise FUSEError(errno.EIO) from None

    return cast(_Method, guarded)


class Names(pyfuse3.Operations):
    """The names of one mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: Filesystem) -> None:
        super().__init__()
        self._fs = filesystem
        self._started_ns = filesystem.started_ns
        self._listings: dict[int, tuple[Place, int, int, int]] = {}
        """Open directories: place, number of its watch, and who opened it. Not what was in them: a thousand of
        `watches` open, each with the names of its moment, would be memory without a bound."""
        self._last_listing = 0

    # -- nodes

    def _find(self, node: int) -> tuple[Place, Watch | None]:
        try:
            place, number = nodes.place_of(node)
            return place, self._fs.watches.by_number[number] if number else None
        except KeyError:
            raise FUSEError(errno.ESTALE) from None

    def _attributes(self, place: Place, watch: Watch | None, uid: int, gid: int) -> EntryAttributes:
        fs = self._fs
        entry = EntryAttributes()
        entry.st_ino = InodeT(nodes.node_number(place, watch.number if watch else 0))
        entry.st_mode = ModeT(fs.mode(place))
        entry.st_uid, entry.st_gid = (watch.uid, watch.gid) if watch else (fs.uid, fs.gid)
        entry.st_nlink = 1
        if place.is_directory:
            entry.st_nlink = 2
            if place is nodes.ROOT:
                entry.st_nlink = 4
            elif place is nodes.WATCHES:
                entry.st_nlink += len(fs.watches.by_name)
        size = STREAM_SIZE if place.stream else fs.size(place, watch, uid, gid)
        entry.st_size = size
        entry.st_blksize = 4096
        entry.st_blocks = -(-size // 512)
        made = watch.made_ns if watch else self._started_ns
        changed = fs.changed_ns(place, watch) or made
        entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = changed
        entry.st_birthtime_ns = made
        entry.generation = 0
        entry.entry_timeout = FOR_EVER
        entry.attr_timeout = FOR_EVER if place.stream or fs.fixed_size(place) else 0
        return entry

    @_guarded
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        place, watch = self._find(parent_inode)
        if place is nodes.WATCHES:
            found = self._fs.watches.by_name.get(os.fsdecode(name))
            if found is not None:
                return self._attributes(nodes.WATCH, found, ctx.uid, ctx.gid)
        else:
            text = os.fsdecode(name)
            for child in nodes.CHILDREN.get(place, ()):
                if child.name == text:
                    return self._attributes(child, watch, ctx.uid, ctx.gid)
        raise FUSEError(errno.ENOENT)

    @_guarded
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(*self._find(inode), ctx.uid, ctx.gid)

    @_guarded
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        place, watch = self._find(inode)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise FUSEError(errno.EPERM)
        if fields.update_size:
            if attr.st_size:
                raise FUSEError(errno.EINVAL)
            self._fs.truncate(place, watch, fh)
            self._fs.note.name_changed(("truncate", inode, fh))
        return self._attributes(place, watch, ctx.uid, ctx.gid)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Nothing is kept for a node."""

    @_guarded
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True  # default_permissions: the kernel has checked

    @_guarded
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        limit = self._fs.options.max_watches
        data.f_files = limit
        data.f_ffree = data.f_favail = max(0, limit - len(self._fs.watches.by_name))
        data.f_namemax = NAME_MAX
        return data

    # -- directories

    @_guarded
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        place, watch = self._find(inode)
        if not place.is_directory:
            raise FUSEError(errno.ENOTDIR)
        try:
            self._fs.open_directory(ctx.uid)
        except OpenRefused as error:
            log.warning("open of %s refused: %s", place.path or "the root", error.strerror)
            raise FUSEError(error.errno or errno.EIO) from None
        self._last_listing += 1
        # The node is in the number, so that a successor, which has not seen the open, can list it too.
        fh = inode << _LISTING_SHIFT | self._last_listing & (1 << _LISTING_SHIFT) - 1
        self._listings[fh] = (place, watch.number if watch else 0, ctx.uid, ctx.gid)
        return FileHandleT(fh)

    def close_directories(self) -> None:
        """Before a successor of this one: who has directories open may go on listing them, and nobody counts them."""
        for _, _, uid, _ in self._listings.values():
            self._fs.close_directory(uid)
        self._listings.clear()

    def kept_listings(self) -> tuple[dict[int, tuple[Place, int, int, int]], int]:
        """Open directories, and the number of the last one, for another Names to go on with."""
        return self._listings, self._last_listing

    def keep_listings(self, listings: dict[int, tuple[Place, int, int, int]], last: int) -> None:
        """What `kept_listings` gave."""
        self._listings, self._last_listing = dict(listings), last

    @_guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        opened = self._listings.get(fh)
        if opened is None:
            try:
                opened = (*nodes.place_of(fh >> _LISTING_SHIFT), _NOBODY, _NOBODY)
            except KeyError:
                raise FUSEError(errno.EBADF) from None
        place, number, uid, gid = opened
        if place is nodes.WATCHES:
            # In the order of their numbers, which are never used again: what is there all the time comes once.
            watches = self._fs.watches
            for index in range(bisect_right(watches.named, start_id), len(watches.named)):
                at = watches.named[index]
                watch = watches.by_number[at]
                attributes = self._attributes(nodes.WATCH, watch, uid, gid)
                if not pyfuse3.readdir_reply(token, FileNameT(os.fsencode(watch.name)), attributes, at):
                    break
            return
        children = nodes.CHILDREN[place]
        for index in range(start_id, len(children)):
            child = children[index]
            try:
                found, of = self._find(nodes.node_number(child, number))
            except FUSEError:
                continue  # the watch has gone since the directory was opened
            attributes = self._attributes(found, of, uid, gid)
            if not pyfuse3.readdir_reply(token, FileNameT(child.name.encode()), attributes, index + 1):
                break

    @_guarded
    async def releasedir(self, fh: FileHandleT) -> None:
        listing = self._listings.pop(fh, None)
        if listing is not None:
            self._fs.close_directory(listing[2])

    @_guarded
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing is kept on disk."""

    @_guarded
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        place, _ = self._find(parent_inode)
        if place is not nodes.WATCHES:
            raise FUSEError(errno.EPERM)
        if len(name) > NAME_MAX:
            raise FUSEError(errno.ENAMETOOLONG)
        if not name:  # no kernel asks; a watch without a name is an open root queue's, and would stay
            raise FUSEError(errno.ENOENT)
        try:
            watch = self._fs.make_watch(os.fsdecode(name), ctx.uid, ctx.gid)
            self._fs.note.name_changed(("mkdir", watch.name, ctx.uid, ctx.gid))
        except WatchRefused as error:
            log.warning("mkdir %r of user %d refused: %s", os.fsdecode(name), ctx.uid, error.strerror)
            raise FUSEError(error.errno or errno.EIO) from None
        return self._attributes(nodes.WATCH, watch, ctx.uid, ctx.gid)

    @_guarded
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        place, _ = self._find(parent_inode)
        if place is not nodes.WATCHES:
            raise FUSEError(errno.EPERM)
        try:
            self._fs.remove_watch(os.fsdecode(name))
            self._fs.note.name_changed(("rmdir", os.fsdecode(name)))
        except KeyError:
            raise FUSEError(errno.ENOENT) from None

    @_guarded
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        place, _ = self._find(parent_inode)
        if place is not nodes.WATCH:
            raise FUSEError(errno.EPERM)

    # -- what this filesystem does not have

    @_guarded
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @_guarded
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        raise FUSEError(errno.EPERM)

    @_guarded
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @_guarded
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @_guarded
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        raise FUSEError(errno.EPERM)

    # -- files

    @_guarded
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        place, watch = self._find(inode)
        if place.stream and flags & os.O_DIRECT:
            raise FUSEError(errno.EINVAL)  # splice would take records (ABI.md, 3)
        try:
            fh = self._fs.open(place, watch, flags, (ctx.uid, ctx.gid, ctx.pid))
            self._fs.note.name_changed(("open", inode, flags, (ctx.uid, ctx.gid, ctx.pid)))
        except (OpenRefused, WatchRefused) as error:
            log.warning("open of %s refused: %s", place.path or "the root", error.strerror)
            raise FUSEError(error.errno or errno.EIO) from None
        # The channel puts the handle's own flags into the reply.
        return FileInfo(fh=FileHandleT(fh), direct_io=True)

    @_guarded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing is kept on disk."""
