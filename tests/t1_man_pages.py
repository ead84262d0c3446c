"""The man pages, held against the parsers and tables: each thing is said, and none that does not exist."""

from __future__ import annotations

import argparse
import errno
import importlib
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import ROOT
from wqfs.abi.records import FLAGS, SUBTYPES, TYPE_WORDS
from wqfs.cli import COMMANDS
from wqfs.fs import nodes
from wqfs.fs.options import parse_options
from wqfs.sim.expectation import OWN_KEYS
from wqfs.sim.scenario_toml import SCENARIO_KEYS, STEP_KEYS, WATCH_KEYS, parse

PAGES = ROOT / "docs/man"
TEXT = (PAGES / "wqfs.1").read_text()
FILES = (PAGES / "wqfs.5").read_text()
SCENARIO = (PAGES / "wqfs-scenario.5").read_text()
OF_ALL = {"--help", "-h", "--mount"}


def part(text: str, title: str, macro: str = "SH") -> str:
    """A part of a page, to the next heading, without the escapes of roff."""
    match = re.search(rf"^\.{macro} {re.escape(title)}\n(.*?)(?=^\.S[SH] |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no part {title}"
    return re.sub(r"\\f[A-Z]", "", match[1]).replace("\\-", "-").replace("\\ ", " ")


def section(command: str) -> str:
    """What wqfs(1) says of a command, without the escapes of roff."""
    match = re.search(rf"^\.SS {command}\b.*?(?=^\.S[SH] )", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, f"wqfs.1 has no {command}"
    return match[0].replace("\\-", "-")


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from options(each)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "play"])
def test_wqfs_1_has_each_option_and_no_other(command: str) -> None:
    known = set(options(importlib.import_module(f"wqfs.cli.{command}").make_parser())) - OF_ALL
    said = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section(command)))
    assert known - said == set(), "not in the man page"
    assert said - known - OF_ALL == set(), "no such option"


def test_wqfs_play_1_has_each_option_and_no_other() -> None:
    text = (PAGES / "wqfs-play.1").read_text().replace("\\-", "-").replace("\\ ", " ")
    known = {o for name in ("play", "record", "settle") for o in options(
        importlib.import_module(f"wqfs.cli.{name}").make_parser())}  # fmt: skip
    said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert {o for o in known if o.startswith("--")} - {"--help"} == said


def test_wqfs_8_has_each_mount_option_and_no_other() -> None:
    page = (PAGES / "wqfs.8").read_text()
    said = set()
    for title in ("Mount options of FUSE", "Mount options of wqfs"):
        said |= set(re.findall(r"^\.TP\n\.BI? ([a-z_]+)", part(page, title, "SS"), re.MULTILINE))
    fields = set(parse_options("").__dataclass_fields__) - {"kernel"} | {"nosurvive"}
    assert said - {"auto_unmount"} == fields


def test_wqfs_5_has_each_file_with_its_mode() -> None:
    said = re.findall(r"^\.TP\n\.I (\S+)\n\((\d+)\)", part(FILES, "FILES"), re.MULTILINE)
    places = [*nodes.FIXED.values(), *nodes.OF_A_WATCH.values()]
    assert dict(said) == {place.path: f"{stat.S_IMODE(place.mode):04o}" for place in places if place.path}
    assert len(said) == len(places) - 1


def test_wqfs_5_has_each_event_with_its_number() -> None:
    said: dict[str, set[tuple[str, int]]] = {}
    for chunk in part(FILES, "EVENTS").split(".TP\n")[1:]:
        head, _, rest = chunk.partition("\n")
        said[head.removeprefix(".B ")] = {
            (word, int(number)) for word, number in re.findall(r"^\.B ([a-z_]+)\n\((\d+)", rest, re.MULTILINE)
        }
    assert said == {
        f"{word} ({int(type_)})": {(member.name.lower(), int(member)) for member in SUBTYPES[type_]}
        for type_, word in TYPE_WORDS.items()
    }
    for flags in FLAGS.values():
        assert all(str(flag.name) in part(FILES, "EVENTS") for flag in flags)


def test_wqfs_5_has_each_ioctl_of_the_header() -> None:
    header = (ROOT / "wqfs/abi/wqfs.h").read_text()
    defined = set(re.findall(r"^#define ((?:WQFS_IOC|IOC_WATCH|WQFS_SETTLE)\w+)", header, re.MULTILINE))
    assert defined == set(re.findall(r"\b(?:WQFS_IOC|IOC_WATCH|WQFS_SETTLE)_\w+", part(FILES, "IOCTLS")))


def test_wqfs_5_has_each_errno_that_the_files_give() -> None:
    said = set(re.findall(r"^\.TP\n\.B (E[A-Z0-9]+)", part(FILES, "ERRORS"), re.MULTILINE)) | {"ENOBUFS"}
    assert said <= set(errno.errorcode.values())
    sources = [*Path(ROOT / "wqfs/fs/handles").glob("*.py"), ROOT / "wqfs/queue.py", ROOT / "wqfs/watches.py"]
    sources += [ROOT / f"wqfs/fs/{name}.py" for name in ("names", "control", "caller", "channel")]
    given = {name for source in sources for name in re.findall(r"errno\.(E[A-Z0-9]+)", source.read_text())}
    of_any_file = {"ENOTDIR", "EISDIR", "EACCES"}
    assert given - of_any_file - said == set()


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        ("The scenario", SCENARIO_KEYS),
        ("A watch", WATCH_KEYS),
        ("A step", STEP_KEYS),
        ("An expectation", OWN_KEYS),
    ],
)
def test_wqfs_scenario_5_has_each_key_and_no_other(title: str, keys: tuple[str, ...]) -> None:
    assert set(re.findall(r"^\.TP\n\.B (\w+)$", part(SCENARIO, title, "SS"), re.MULTILINE)) == set(keys)


def scenario_example() -> str:
    """The example of wqfs-scenario(5), as a file; t3_play runs it."""
    return part(SCENARIO, "EXAMPLES").partition(".EX\n")[2].partition(".EE")[0]


@pytest.mark.parametrize("unit", ["us", "ms", "s", "m", "h"])
def test_times_have_the_units_that_wqfs_scenario_5_names(unit: str) -> None:
    assert f"\\fB{unit}\\fP" in SCENARIO
    assert parse(f'[[step]]\nat = "1{unit}"\nrun = "x"\n').steps[0].at_ns


def test_pages_name_each_other_and_no_page_that_is_not_there() -> None:
    pages = {page.name for page in PAGES.iterdir()}
    named: dict[str, set[str]] = {}
    for page in pages:
        text = (PAGES / page).read_text().replace("\\-", "-")
        named[page] = {f"{name}.{number}" for name, number in re.findall(r"^\.BR (wqfs[\w-]*) \((\d)\)", text, re.M)}
        assert named[page] <= pages, page
        also = text.partition(".SH SEE ALSO\n")[2]
        order = [(n, name) for name, n in re.findall(r"^\.BR (\S+) \((\d)\)", also, re.M)]
        assert order == sorted(order), f"{page}: by section, then by name"
    for page in pages:
        assert any(page in others for other, others in named.items() if other != page), f"nobody names {page}"


@pytest.mark.parametrize("page", sorted(PAGES.iterdir()), ids=lambda page: page.name)
def test_page_is_set_without_a_warning(page: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is missing (Debian package groff-base)")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(page)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", sorted(PAGES.iterdir()), ids=lambda page: page.name)
def test_man_shows_page_without_a_warning(page: Path) -> None:
    if shutil.which("man") is None:
        pytest.skip("man is missing (Debian package man-db)")
    done = subprocess.run(
        ["man", "--warnings=w", "-E", "UTF-8", "-l", str(page)],
        capture_output=True, text=True, timeout=30, check=False,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(page.stem.upper() + f"({page.suffix[1:]})")
    assert max(map(len, lines)) <= 80
