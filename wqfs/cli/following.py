"""The state of a mount followed event by event, so that what held for a moment between two looks is seen.

It starts as a snapshot. `apply` brings it to what it was right after one event; when all events up to a later
snapshot have been applied, `reset` puts that in its place, for no event tells of everything.
"""

from __future__ import annotations

from typing import Any

from wqfs.abi.errors import ERRNO_NAMES
from wqfs.cli.watching import Event

Snapshot = dict[str, Any]
Thing = dict[str, Any]
"""A mount, superblock or key with the members that it has in sim/snapshot."""

_KEY_STATES = {"updated": "ok", "revoked": "EKEYREVOKED", "invalidated": "ENOKEY"}


class Followed:
    """seq: the last event that it includes; mounts, superblocks, keys: by id or serial number."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.reset(snapshot)

    def reset(self, snapshot: Snapshot) -> None:
        """It is as the snapshot says."""
        self.seq: int = snapshot["seq"]
        self.mounts: dict[int, Thing] = {mount["id"]: dict(mount) for mount in snapshot["mounts"]}
        self.superblocks: dict[int, Thing] = {sb["id"]: dict(sb) for sb in snapshot["superblocks"]}
        self.keys: dict[int, Thing] = {key["serial"]: _key_copy(key) for key in snapshot["keys"]}

    # -- asking

    def mounted_at(self, path: str) -> Thing | None:
        """The topmost mount at a mountpoint."""
        there = {mount["id"]: mount for mount in self.mounts.values() if mount["mountpoint"] == path}
        covered = {mount["parent"] for mount in there.values()}
        return next((mount for id_, mount in there.items() if id_ not in covered), None)

    def is_read_only(self, mount: Thing) -> bool:
        """By itself or by its superblock."""
        superblock = self.superblocks.get(mount["sb"])
        return "ro" in mount["options"] or (superblock is not None and superblock["read_only"])

    # -- events

    def apply(self, event: Event, later: Snapshot) -> None:
        """Go on to what it was after the next event. later: a snapshot that includes it, for what it does not say."""
        self.seq = event["seq"]
        if "source" not in event and "description" not in event:
            return  # a raw record, by sim/records: nothing has changed
        if event["type"] == "mount":
            self._apply_mount(event, later)
        elif event["type"] == "sb" and event["sb"] in self.superblocks:
            superblock = self.superblocks[event["sb"]]
            superblock["changed"] = event["seq"]
            if event["event"] == "readonly":
                superblock["read_only"] = "IS_NOW_RO" in event["flags"]
            elif event["event"] == "error":
                superblock["last_error"] = event["seq"]
        elif event["type"] == "key":
            self._apply_key(event, later)

    def _apply_mount(self, event: Event, later: Snapshot) -> None:
        word = event["event"]
        id_ = event["auxiliary_mount"] or event["triggered_on"]
        if word == "unmount":
            self.mounts.pop(id_, None)
        elif word == "new_mount":
            self.mounts[id_] = self._new_mount(event, later)
        elif id_ in self.mounts:
            mount = self.mounts[id_]
            mount["changed"] = event["seq"]
            if word == "move_to":
                self._move(mount, event["mountpoint"])
                mount["parent"] = event["triggered_on"]
            elif word in ("readonly", "setattr"):
                _set_read_only(mount, event)

    def _new_mount(self, event: Event, later: Snapshot) -> Thing:
        """As the event has it; its superblock as far as it can be told, for the event does not say."""
        id_ = event["auxiliary_mount"]
        found = next((dict(mount) for mount in later["mounts"] if mount["id"] == id_), None)
        for superblock in later["superblocks"]:  # which may have turned read-only since: events tell
            self.superblocks.setdefault(superblock["id"], dict(superblock))
        mount = found or {
            "id": id_, "fstype": event["fstype"], "source": event["source"], "options": [], "sb": self._sb_of(event)
        }  # fmt: skip
        mount |= {"parent": event["triggered_on"], "mountpoint": event["mountpoint"], "changed": event["seq"]}
        _set_read_only(mount, event)
        return mount

    def _sb_of(self, event: Event) -> int | None:
        """The superblock of a mount that is gone already: by its source, where that is one's alone."""
        same = [
            superblock["id"]
            for superblock in self.superblocks.values()
            if (superblock["source"], superblock["fstype"]) == (event["source"], event["fstype"])
        ]
        return same[0] if len(same) == 1 else None

    def _move(self, top: Thing, to: str) -> None:
        """All below it goes with it."""
        was = top["mountpoint"]
        moved = {top["id"]}
        while more := {id_ for id_, mount in self.mounts.items() if mount["parent"] in moved} - moved:
            moved |= more
        for id_ in moved & self.mounts.keys():
            mount = self.mounts[id_]
            mount["mountpoint"] = (to.rstrip("/") + mount["mountpoint"][len(was.rstrip("/")) :]) or "/"

    def _apply_key(self, event: Event, later: Snapshot) -> None:
        word, serial, aux = event["event"], event["key"], event["aux"]
        there = {key["serial"]: key for key in later["keys"]}
        if serial not in self.keys:
            named = {"serial": serial, "type": event["key_type"], "description": event["description"]}
            self.keys[serial] = _key_copy(there.get(serial, named)) | {"state": "ok"}
        key = self.keys[serial]
        key["changed"] = event["seq"]
        if word == "instantiated":
            key["state"] = ERRNO_NAMES.get(aux, str(aux)) if aux else "ok"
        key["state"] = _KEY_STATES.get(word, key["state"])
        if word == "invalidated":  # its links go, which no event tells of
            for ring in self.keys.values():
                ring.get("links", [])[:] = [each for each in ring.get("links", []) if each != serial]
            self._drop([serial], there)
        links = key.get("links")
        if links is None:
            return
        if word == "linked":
            links.append(aux)
        elif word == "unlinked":
            links[:] = [each for each in links if each != aux]
            self._drop([aux], there)
        elif word == "cleared":
            dropped = list(links)
            links.clear()
            self._drop(dropped, there)

    def _drop(self, serials: list[int], there: dict[int, Thing]) -> None:
        """A link was the last one of keys that are gone later."""
        linked = {each for key in self.keys.values() for each in key.get("links") or ()}
        for serial in serials:
            if serial not in linked and serial not in there:
                self.keys.pop(serial, None)


def _key_copy(key: Thing) -> Thing:
    return key | ({"links": list(key["links"])} if "links" in key else {})


def _set_read_only(mount: Thing, event: Event) -> None:
    kept = [option for option in mount["options"] if option not in ("ro", "rw")]
    mount["options"] = ["ro" if "IS_NOW_RO" in event["flags"] else "rw", *kept]
