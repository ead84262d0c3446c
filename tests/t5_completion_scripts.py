"""Completion in the shells themselves, of what the parsers know; t3_completion has what a mount knows."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from scripts.completions import FILES, FOLDER, mount_parser, text
from tests.tools import LIMIT
from wqfs.cli import COMMANDS
from wqfs.cli.complete import KINDS
from wqfs.fs.options import parse_command_line


def shell(name: str, script: str, *words: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [name, "-c", script, *words], capture_output=True, text=True, timeout=LIMIT, check=False, cwd=FOLDER
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", FILES)
def test_scripts_are_those_of_the_parsers(name: str) -> None:
    assert (FOLDER / FILES[name]).read_text() == text(name), "run python -m scripts.completions"


@pytest.mark.parametrize("name", FILES)
def test_scripts_ask_for_each_kind_that_wqfs_answers(name: str) -> None:
    assert set(re.findall(r"(?:\b_wqfs_ask |\bkind=)([a-z][a-z-]+)", (FOLDER / FILES[name]).read_text())) == set(KINDS)


def bash(*words: str) -> list[str]:
    script = (
        'source ./wqfs.bash; COMP_WORDS=("$0" "$@"); COMP_CWORD=$#; '
        'f=$(complete -p wqfs | sed "s/.*-F \\([^ ]*\\) .*/\\1/"); "$f" wqfs "${!#}" ""; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return shell("bash", script, "wqfs", *words).split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ta"], ["tail"]),
        (["tail", "--since"], ["--since-seq"]),
        (["tail", "-o", "j"], ["json"]),
        (["tail", "-e", "new_m"], ["new_mount"]),
        (["wait", "unm"], ["unmounted"]),
        (["watch", "cha"], ["change"]),
        (["mount", "--ready"], ["--ready-fd"]),
    ],
)
def test_bash_completes(words: list[str], found: list[str]) -> None:
    assert bash(*words) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [("wqfs ta", ["tail"]), ("wqfs tail --since", ["--since-seq"]), ("wqfs wait unm", ["unmounted"])],
)
def test_fish_completes(line: str, found: list[str]) -> None:
    out = shell("fish", f"source ./wqfs.fish; complete -C '{line}'")
    assert [each.split("\t")[0] for each in out.splitlines()] == found


def test_zsh_reads_it() -> None:
    assert shell("zsh", "zsh -n ./_wqfs") == ""
    script = (FOLDER / "_wqfs").read_text()
    assert script.startswith("#compdef wqfs")
    assert set(COMMANDS) - set(re.findall(r"^ +(\w+):'", script, re.MULTILINE)) == set()


def test_mount_options_are_those_that_mounting_parses() -> None:
    for action in mount_parser()._actions:
        for option in action.option_strings:
            words = [option] if action.nargs == 0 else [option, {"OPTIONS": "ro", "N": "0"}[str(action.metavar)]]
            parse_command_line([*words, "/mnt"])
