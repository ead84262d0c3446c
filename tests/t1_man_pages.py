"""The man pages, held against the parsers: each option is said, and none that does not exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.tools import ROOT
from wqfs.cli import COMMANDS

PAGES = ROOT / "docs/man"
TEXT = (PAGES / "wqfs.1").read_text()
OF_ALL = {"--help", "-h", "--mount"}


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


@pytest.mark.parametrize("page", sorted(PAGES.iterdir()), ids=lambda page: page.name)
def test_page_is_set_without_a_warning(page: object) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is missing (Debian package groff-base)")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(page)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
