"""A key service that writes down what it tells, and two users of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wqfs.abi.records import KeySubtype as Sub
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.keyring import Keyrings
from wqfs.sim.keys import Key, Keyring

ANN = Actor(1000, 1000, (50,))
BOB = Actor(1001, 1001, (50,))


class Service(Keyrings):
    """A key service that writes down what it tells, with Ann logged in."""

    def __init__(self, **options: object) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.ended: list[int] = []
        super().__init__(self._note, lambda key, now_ns: self.ended.append(key.serial), **options)  # type: ignore[arg-type]
        self.login(ANN)

    def _note(self, key: Key, subtype: Sub, aux: int, now_ns: int) -> None:
        self.told.append((key.description, subtype.name.lower(), aux))

    def news(self) -> list[tuple[str, str, int]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return told

    def user(self, description: str = "colour", ring: int | str = "@s", actor: Actor = ANN) -> Key:
        return self.add(actor, "user", description, b"red", ring, 0)

    def ring(self, name: str = "r", ring: int | str = "@s", actor: Actor = ANN) -> Keyring:
        made = self.new_keyring(actor, name, ring, 0)
        assert isinstance(made, Keyring)
        return made


def refused(number: int, call: Callable[..., object], *arguments: object, **options: object) -> Refused:
    """The Refused that the call must raise, with this errno."""
    with pytest.raises(Refused) as caught:
        call(*arguments, **options)
    assert caught.value.errno == number, caught.value
    return caught.value
