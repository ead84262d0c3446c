"""What reading and writing scenarios share: values as TOML, and how a fault in a text is said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

NS_PER_S = 1_000_000_000


class Complaint(Exception):
    """What is wrong with a text: `step 2: at: expected ..., not ...`."""


def text_of(value: object) -> str:
    """A value as TOML on one line. Texts are those of JSON: its escapes are all TOML's too, but for
    halves of surrogate pairs, which no TOML can hold: they become U+FFFD."""
    if isinstance(value, str):
        whole = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if value % 1 else str(int(value))
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {text_of(each)}" for key, each in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(text_of(each) for each in value) + "]"
    return str(value)
