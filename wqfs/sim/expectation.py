"""What a step of a scenario expects: an event on a watch, none, a number in `status`, a text in a file.

    { watch = "w", event = "unmount", mountpoint = "/mnt", within = 1, count = 2 }
    { watch = "w", event = "error", absent = true }
    { watch = "w", status = { lost = ">=1", queued = 32 } }
    { file = "sim/mountinfo", contains = "/mnt " }        # or lacks = "..."

Of an event every member but these may be named, as the line of `events` has it; of its flags those
that must be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wqfs.sim.scenario_text import NS_PER_S, Complaint

WITHIN_NS = 2 * NS_PER_S
_COMPARISON = re.compile(r"\s*(==|>=|<=|!=|<|>|)\s*([0-9]{1,18})\s*", re.ASCII)
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "": lambda a, b: a == b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b, ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, "<": lambda a, b: a < b,
}  # fmt: skip
OWN_KEYS = ("watch", "within", "count", "absent", "status", "file", "contains", "lacks")


@dataclass(frozen=True, slots=True)
class Expectation:
    """within_ns: how long it may take; members: of an event; count: how many such; absent: none such;
    status: name -> comparison; file: within the mount, with the text that it must have or lack."""

    watch: str = ""
    members: Mapping[str, Any] = field(default_factory=dict)
    within_ns: int = WITHIN_NS
    count: int = 1
    absent: bool = False
    status: Mapping[str, int | str] = field(default_factory=dict)
    file: str = ""
    contains: str = ""
    lacks: str = ""

    def fits(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is such a one."""
        return all(_is(event.get(key), wanted, key) for key, wanted in self.members.items())

    def status_holds(self, status: Mapping[str, int]) -> bool:
        """Whether the numbers of a `status` are as expected."""
        return all(name in status and _compares(status[name], wanted) for name, wanted in self.status.items())

    def text_holds(self, text: str) -> bool:
        """Whether a file's text is as expected."""
        return (not self.contains or self.contains in text) and (not self.lacks or self.lacks not in text)

    def table(self) -> dict[str, Any]:
        """As a scenario has it."""
        table: dict[str, Any] = {"watch": self.watch} if self.watch else {"file": self.file}
        table.update(self.members)
        own = (("status", self.status), ("contains", self.contains), ("lacks", self.lacks), ("absent", self.absent))
        table.update({key: value for key, value in own if value})
        if self.count != 1:
            table["count"] = self.count
        if self.within_ns != (0 if self.absent else WITHIN_NS):
            table["within"] = self.within_ns / NS_PER_S
        return table


def _is(found: Any, wanted: Any, key: str) -> bool:
    if key == "flags":
        return isinstance(found, list) and set([wanted] if isinstance(wanted, str) else wanted) <= set(found)
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def _compares(number: int, wanted: int | str) -> bool:
    match = _COMPARISON.fullmatch(str(wanted))
    return match is not None and _COMPARE[match[1]](number, int(match[2]))


def parse_expectation(
    place: str, table: Mapping[str, Any], watches: Sequence[str], duration: Callable[[str, object], int]
) -> Expectation:
    """An expectation of the step at `place`; duration: reads a time. Raises Complaint."""
    watch = table.get("watch", "")
    file = table.get("file", "")
    if bool(watch) == bool(file):
        raise Complaint(f"{place}: expect: expected watch or file, and not both")
    if watch and watch not in watches:
        raise Complaint(f"{place}: expect: there is no watch {watch!r}: there are {', '.join(watches) or 'none'}")
    members = {key: value for key, value in table.items() if key not in OWN_KEYS}
    absent = table.get("absent", False)
    count = table.get("count", 1)
    status = table.get("status", {})
    contains, lacks = table.get("contains", ""), table.get("lacks", "")
    if file and (not isinstance(file, str) or file[:1] == "/" or ".." in file.split("/")):
        raise Complaint(f"{place}: expect: file: expected a path within the mount, not {file!r}")
    if file and (members or status or absent or not (contains or lacks)):
        raise Complaint(f"{place}: expect: expected contains or lacks with file, and no more")
    if not isinstance(contains, str) or not isinstance(lacks, str) or (watch and (contains or lacks)):
        raise Complaint(f"{place}: expect: expected contains and lacks with file alone, as texts")
    if not isinstance(absent, bool) or not isinstance(count, int) or not 1 <= count <= 1_000_000:
        raise Complaint(f"{place}: expect: expected absent = true and count = 1 or more")
    if not isinstance(status, dict) or not all(_COMPARISON.fullmatch(str(each)) for each in status.values()):
        raise Complaint(f'{place}: expect: status: expected numbers such as 32 or ">=1", not {status!r}')
    if watch and bool(members) == bool(status):
        raise Complaint(f"{place}: expect: expected members of an event, such as event = ..., or status")
    within = duration("expect: within", table["within"]) if "within" in table else 0 if absent else WITHIN_NS
    return Expectation(watch, members, within, count, absent, status, file, contains, lacks)
