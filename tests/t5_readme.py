"""README says what is: its demo's output is real, its pages are those of the tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from scripts import commands_page, readme_demo
from tests.tools import Mount, wait_until

ROOT = Path(__file__).resolve().parent.parent


def without_serials(text: str) -> str:
    text = re.sub(r'"(key|aux)":\d+', r'"\1":0', text)
    return re.sub(r"(?m)^(00000[0-9a-f]{3}: ).*$", r"\1", text)


def test_demo_prints_what_readme_shows() -> None:
    done = subprocess.run(
        ["bash", "scripts/demo.sh"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    came, shown = readme_demo.settled(done.stdout), readme_demo.block((ROOT / "README.md").read_text())
    if os.getuid():  # another user's keyrings come before: other serial numbers
        came, shown = without_serials(came), without_serials(shown)
    assert came == shown


def test_commands_page_is_that_of_the_table() -> None:
    assert (ROOT / "docs/commands.md").read_text() == commands_page.page()
    assert (ROOT / "docs/man/wqfs-commands.5").read_text() == commands_page.man_page()


def recipe(language: str) -> str:
    """The first block of that language in README."""
    text = (ROOT / "README.md").read_text().split("## Three recipes")[1]
    match = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert match is not None
    return match[1]


def test_shell_recipe_runs_as_it_stands(mount: Mount) -> None:
    text = (ROOT / "README.md").read_text().split("**Shell.**")[1]
    block = text.split("```console\n")[1].split("```")[0]
    commands = [line.removeprefix("$ ").replace("~/wqfs", str(mount.path)) for line in block.splitlines()]
    waiting = "until grep -q '^wqfs_waiting_readers 1' metrics; do :; done"  # a person types more slowly
    commands.insert(3, waiting)
    assert " &" in commands[2]
    done = subprocess.run(
        ["bash", "-e"], input="\n".join([*commands, "wait"]), capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"event":"new_mount"' in done.stdout


def test_c_recipe_compiles_and_reads(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "recipe.c").write_text(recipe("c"))
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/wqfs/abi", "-o", "recipe", "recipe.c"],
        cwd=tmp_path,
        check=True,
        timeout=30,
    )
    process = subprocess.Popen([tmp_path / "recipe"], cwd=mount.path, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: "wqfs_waiting_readers 1\n" in (mount.path / "metrics").read_text(), "the reader")
        mount.post("mount none /mnt -t tmpfs")
        assert process.communicate(timeout=10)[0] == "24 bytes\n"
    finally:
        process.kill()
        process.wait(10)


def test_python_recipe_runs_as_it_stands(mount: Mount) -> None:
    done = subprocess.run(
        [sys.executable, "-c", recipe("python")],
        cwd=mount.path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(", ")[:2] for line in done.stdout.splitlines()] == [
        ["Record(type=2", "subtype=0"],
        ["Record(type=3", "subtype=1"],
    ]


def test_simulation_example_runs_as_it_stands() -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [each for each in examples if "Simulation" in each]
    subprocess.run([sys.executable, "-c", example], cwd=ROOT, check=True, timeout=20)


def test_client_example_runs_as_it_stands(mount: Mount) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [each for each in examples if "wqfs.client" in each]
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=mount.path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("[MountEvent("), done.stderr
