"""What may come next in a line, from the same table that parses."""

from __future__ import annotations

import json

import pytest

from wqfs.sim import COMMANDS, Simulation
from wqfs.sim.completion import Names, candidates, data, kinds, next_words, summary_of
from wqfs.sim.language import split
from wqfs.sim.views import snapshot


@pytest.fixture(scope="module")
def here() -> Simulation:
    simulation = Simulation()
    simulation.run("mount /dev/sdb1 '/mnt/a b' -t ext4")
    simulation.run("key add user colour red @s")
    return simulation


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("um", ["umount"]),
        ("sb f", ["fill", "freeze"]),
        ("sb network / ", ["down", "up"]),
        ("sb edquot / ", ["group", "project", "user"]),
        ("sb error / EIO c", ["cookie="]),
        ("sb error / EDEADL", ["EDEADLK"]),
        ("device error /dev/sdb1 crit", ["critical_medium", "critical_nexus", "critical_target"]),
        ("mount -t ext", ["ext2", "ext3", "ext4"]),
        ("mount -o ro,nosu", ["ro,nosuid"]),
        ("umount --l", ["--lazy"]),
        ("key add ", ["big_key", "keyring", "logon", "user"]),
        ("key update @u", ["@u", "@us"]),
        ("key move -", ["-f"]),
        ("expire /x /y ", []),
        ("nonsense ", []),
        ("umount 'open", []),
    ],
)
def test_candidates_without_a_system(line: str, wanted: list[str]) -> None:
    assert candidates(line) == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("umount /m", ["/mnt/a\\040b"]),
        ("umount -l /m", ["/mnt/a\\040b"]),
        ("umount /x /y /m", ["/mnt/a\\040b"]),
        ("sb error /dev/s", ["/dev/sdb1"]),
        ("key update %user:", ["%user:colour"]),
        ("key clear %user:", []),
        ("mount -t ext4 /dev/s", ["/dev/sdb1"]),
    ],
)
def test_candidates_with_the_names_of_a_system(here: Simulation, line: str, wanted: list[str]) -> None:
    assert candidates(line, here.system) == wanted


def test_candidates_of_nothing_are_the_first_words_of_the_table() -> None:
    assert candidates("") == sorted({command.words[0] for command in COMMANDS})


def test_candidates_of_each_command_lead_to_it() -> None:
    for command in COMMANDS:
        for at in range(len(command.words)):
            assert command.words[at] in candidates(" ".join(command.words[:at]) + " ")


def test_candidates_are_words_that_split_reads_back(here: Simulation) -> None:
    for word in candidates("umount ", here.system):
        assert len(split(word)) == 1


def test_data_has_every_command_and_can_be_written_as_json() -> None:
    document = json.loads(json.dumps(data()))
    assert [tuple(each["words"]) for each in document] == [command.words for command in COMMANDS]
    assert document[0]["options_with_value"]["-t"]
    assert [set(each["options"]) for each in document] == [set(command.flags) for command in COMMANDS]
    assert all(each["events"] and each["errors"] for each in document)


def test_options_in_a_usage_are_options_of_the_table() -> None:
    for command in COMMANDS:
        for word in command.usage.split()[len(command.words) :]:
            option = word.strip("[]").split("|")[0].split(",")[0]
            if option.startswith("-") and command.flags and "[" not in option:
                assert option in {*command.flags, *command.valued}, (command.words, option)


def test_kinds_of_the_arguments_are_those_of_the_usage() -> None:
    by_words = {command.words: kinds(command) for command in COMMANDS}
    assert by_words["key", "move"] == ("KEY", "FROM", "TO")
    assert by_words["sb", "edquot"] == ("SUPERBLOCK", "user|group|project", "ID")


def test_names_of_a_snapshot_are_those_of_its_system(here: Simulation) -> None:
    names = Names.of_system(here.system)
    assert "/mnt/a b" in names.mounts
    assert ("user", "colour") in names.keys
    assert Names.of_snapshot(json.loads(snapshot(here.system, None, 0))) == names


def test_next_words_are_not_quoted_and_go_on_after_as(here: Simulation) -> None:
    names = Names.of_system(here.system)
    assert next_words(["umount"], "/m", names) == ["/mnt/a b"]
    assert next_words(["as", "shell/1", "as", "other", "umount"], "/m", names) == ["/mnt/a b"]
    assert next_words(["as", "shell"], "um") == ["umount"]
    assert next_words(["process", "new"], "", Names(processes=("shell",))) == []
    assert next_words(["process", "exit"], "", Names(processes=("shell",))) == ["shell"]


def test_summaries_are_of_whole_commands_and_short() -> None:
    assert summary_of(["sb"]) == ""
    for command in COMMANDS:
        assert command.summary.startswith(summary_of(command.words)), command.words
        assert 0 < len(summary_of(command.words)) <= 120, command.words
