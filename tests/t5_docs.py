"""README and docs/ say what is: every block is run, what the code knows comes from the code, links lead somewhere.

A page is run as a whole, from top to bottom, by a shell of its own (scripts/pages.py). What is not run that way
stands in one of the tables below, with who runs it or why nobody can.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from scripts import commands_page, pages, reference_tables
from scripts.pages import Block
from tests.tools import ROOT
from wqfs.fs.options import Options
from wqfs.queue import DEPTH_MAX

RUN_ELSEWHERE = {
    r"docs/scenarios/[a-z-]+\.md": "tests/t3_play.py plays each, tests/t1_scenario.py holds its page",
    r"docs/how-to/service\.md": "tests/t5_booted_docs.py runs it on a systemd of its own",
    r"docs/how-to/containers\.md": "wants container runtimes: tests/t5_containers.py runs each block",
}
"""Pages, as patterns, whose blocks are not run here."""
NOT_RUN = {
    (
        "README.md",
        "make run",
    ): "tests/t5_install.py runs it, test_demo_ends_well the demo; `make test` runs this",
    (
        "docs/how-to/run-unmodified-programs.md",
        "$ wqfs run --keys kernel",
    ): "wants a kernel whose key calls are allowed: tests/t3_run_kernel_keys.py runs it",
    (
        "docs/how-to/run-unmodified-programs.md",
        "# real.sh",
    ): "the script of that",
    ("docs/reference/ioctls.md", "struct wqfs_watch_key"): "a part of wqfs.h, held against it below",
}
"""(page, how a block begins) -> why."""
SHOWN = {"text", "json"}
"""Languages of blocks in which there is nothing to run."""


def is_run_elsewhere(page: str) -> bool:
    return any(re.fullmatch(pattern, page) for pattern in RUN_ELSEWHERE)


PAGES = [page for page in pages.pages() if not is_run_elsewhere(page)]


def blocks_to_run(page: str) -> list[Block]:
    """The blocks of a page in which there is something to run."""
    return [
        block
        for block in pages.blocks(page)
        if block.language not in SHOWN and not any(page == of and block.text.startswith(start) for of, start in NOT_RUN)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_to_run(page)])
def test_page_does_what_it_shows(page: str) -> None:
    with pages.shell_for(page) as shell:
        for block in blocks_to_run(page):
            if block.language == "console":
                for command in pages.commands(block.text):
                    came = shell.run(command.text)
                    if not pages.same(command.output, came):
                        pytest.fail(f"{block}: {command.text}\nexpected\n{command.output}\nnot\n{came}")
            elif block.language == "python" and not block.name:
                shell.run_python(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_by_something(page: str) -> None:
    fences = re.findall(r"^\s*(?:```|~~~).*$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(pages.blocks(page)), f"{page}: expected ```LANGUAGE ... ``` alone, not {fences}"
    found = blocks_to_run(page)
    for block in found:
        if block.name:
            told = [c.text for b in found if b.language == "console" for c in pages.commands(b.text)]
            assert any(block.name in text for text in told), f"{block}: no command uses {block.name}"
        else:
            assert block.language in ("console", "python"), f"{block}: nobody runs {block.language or 'no language'}"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_that_is_only_shown_is_a_command(page: str) -> None:
    for block in pages.blocks(page):
        if block.language in SHOWN:
            assert not re.search(r"^(\$ |wqfs [a-z]+$|make |echo |python3? )", block.text, re.MULTILINE), str(block)
    rest = pages.prose((ROOT / page).read_text(encoding="utf-8"))
    indented = re.findall(r"\n\n((?:    |\t)\S.*)", rest)
    assert not indented, f"{page}: expected fenced blocks with their language, not {indented}"


def test_tables_of_what_is_not_run_name_what_there_is() -> None:
    for page, start in NOT_RUN:
        assert any(block.text.startswith(start) for block in pages.blocks(page)), f"{page} has no block {start}"
    for reason in [*NOT_RUN.values(), *RUN_ELSEWHERE.values()]:
        for name in re.findall(r"tests/\w+\.py", reason):
            assert (ROOT / name).exists(), f"there is no {name}"


def test_transcript_that_shows_something_else_is_not_the_same() -> None:
    assert pages.same("a\n...\nc\n", "a\nb\nb\nc\n") and pages.same("a\n...\n", "a\n")
    assert not pages.same("a\n...\nc\n", "a\nb\n") and not pages.same("a\n", "a\nb\n") and not pages.same("", "a\n")


def test_demo_ends_well() -> None:
    done = subprocess.run(
        ["bash", "scripts/demo.sh"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- what comes from the code


@pytest.mark.parametrize("page", pages.pages())
def test_tables_are_those_of_the_code(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == reference_tables.filled(text), "run `python -m scripts.reference_tables`"


def test_every_table_stands_on_a_page() -> None:
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in pages.pages()]
    stand = {name for text in texts for name in re.findall(r"<!-- table: ([a-z-]+) -->", text)}
    assert stand == set(reference_tables.TABLES)


def test_commands_page_is_that_of_the_table() -> None:
    assert (ROOT / "docs/commands.md").read_text() == commands_page.page()
    assert (ROOT / "docs/man/wqfs-commands.5").read_text() == commands_page.man_page()


def test_structures_on_the_page_are_those_of_the_header() -> None:
    (block,) = [block for block in pages.blocks("docs/reference/ioctls.md") if block.language == "c"]
    assert block.text.strip() in (ROOT / "wqfs/abi/wqfs.h").read_text()


def test_counts_of_recorded_scripts_are_those_of_the_files() -> None:
    counts = {path.stem: len(json.loads(path.read_text())) for path in (ROOT / "tests/conformance").glob("*.json")}
    mounts = counts.pop("mounts")
    text = (ROOT / "docs/differences.md").read_text(encoding="utf-8")
    assert f"{sum(counts.values())} recorded\nscripts" in text and f"{mounts} recorded scripts of mount(8)" in text
    assert f"answers {sum(counts.values())} scripts" in " ".join((ROOT / "docs/explanation.md").read_text().split())


def test_limits_that_readme_names_are_the_defaults() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    limits = Options()
    for said in (
        f"watches of a user ({limits.max_watches}, EDQUOT)",
        f"objects of a watch ({limits.max_objects}, EDQUOT)",
        f"waiting readers ({limits.max_waiting}, ENOMEM)",
        f"a command's length ({limits.max_line} bytes, EINVAL)",
        f"at most {DEPTH_MAX} records",
    ):
        assert said in text


# -- links


def anchors(page: Path) -> set[str]:
    """What may stand after # in a link to a page, as GitHub makes it of the headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.*)$", pages.prose(page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


@pytest.mark.parametrize("page", pages.pages())
def test_links_lead_somewhere(page: str) -> None:
    text = pages.prose((ROOT / page).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}: no such heading"


def test_index_leads_to_every_page() -> None:
    text = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in pages.pages():
        name = page.removeprefix("docs/")
        if page not in ("README.md", "docs/README.md"):
            assert f"]({name})" in text, f"docs/README.md does not say who reads {name}"
