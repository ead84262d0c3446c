"""The command blocks of docs/how-to/service.md, run in their order on a booted systemd, and what is found there."""

from __future__ import annotations

import re

import pytest

from tests.booted import Machine
from tests.tools import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAGE = (ROOT / "docs/how-to/service.md").read_text()


def test_blocks_of_the_service_page_do_what_it_says(machine: Machine) -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert {kind for kind, _ in blocks} == {"sh", "fstab"}
    assert PAGE.count("```") == 2 * len(blocks)
    printed = ""
    for kind, text in blocks:
        if kind == "fstab":
            machine.run("tee", "-a", "/etc/fstab", text=text)
        else:
            printed += machine.shell(text)
    assert "/run/wqfs  answers" in printed
    assert "/run/wqfs: mounted" in printed  # the journal's line
    assert "\ndaemon\n" in printed  # whom the server became
    assert machine.mounts("/mnt/public") == []
    assert "Overall exposure level for wqfs.service" in printed
    for folder in ("/run/wqfs", "/mnt/wqfs", "/mnt/events"):
        assert machine.mounts(folder) == ["fuse.wqfs"]
    assert machine.run("stat", "-c", "%U", "/run/wqfs") == "wqfs\n"
    assert "depth=512" in machine.run("systemctl", "show", "-P", "Environment", "wqfs.service")
    machine.run("umount", "/mnt/events")


def test_zsh_and_fish_find_the_installed_completion(machine: Machine) -> None:
    assert machine.run(
        "env", "HOME=/root", "XDG_DATA_DIRS=/usr/local/share:/usr/share", "fish", "-c", "complete -C 'wqfs pla'"
    ).startswith("play\t")
    script = "autoload -U compinit; compinit -D -u; print ${_comps[wqfs]}"
    assert machine.run("zsh", "-c", script) == "_wqfs\n"
    assert machine.run("bash", "-c", "source /usr/local/share/bash-completion/completions/wqfs; complete -p wqfs")


def test_man_finds_the_pages_of_each_section(machine: Machine) -> None:
    for section in ("1", "5", "8"):
        assert machine.run("man", "-w", section, "wqfs").endswith(f"/man{section}/wqfs.{section}\n")
