"""The functions of texts.py led by coverage: `python -m tests.fuzz.coverage TARGET [options of libFuzzer]`.

By hand, for atheris is 60 MB and not in the lock: `.venv/bin/pip install atheris` first. libFuzzer's options follow,
such as `-max_total_time=300`, `-runs=1000000`, `-seed=1`. It begins with what corpus/TARGET has and adds to
.fuzz/TARGET what covers more; `python -m tests.fuzz.coverage keep` writes that into corpus/TARGET/found.hex, an input
a line, of those that are short. What ends in a fault it writes into the working directory: give it a name in
corpus/TARGET.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
FOUND: Final = Path(__file__).resolve().parents[2] / ".fuzz"
_KEPT_MAX: Final = 400
"""Bytes of an input that is kept."""
_FOUND: Final = "found.hex"


def corpus(target: str) -> Iterator[tuple[str, bytes]]:
    """What was kept for a target: a name and the input, of each."""
    for file in sorted((CORPUS / target).iterdir()):
        if file.name == _FOUND:
            for number, line in enumerate(file.read_text(encoding="ascii").split(), 1):
                yield f"{_FOUND}:{number}", bytes.fromhex(line)
        else:
            yield file.name, file.read_bytes()


def keep() -> None:
    """Write what was found into the corpus, with what is there."""
    for folder in sorted(FOUND.iterdir()):
        found = {file.read_bytes() for file in folder.iterdir()} | {data for _, data in corpus(folder.name)}
        lines = sorted(data.hex() for data in found if 0 < len(data) <= _KEPT_MAX)
        (CORPUS / folder.name / _FOUND).write_text("".join(line + "\n" for line in lines), encoding="ascii")
        print(f"{folder.name}: {len(lines)} inputs")


def main() -> int:
    if sys.argv[1:] == ["keep"]:
        keep()
        return 0
    try:
        import atheris
    except ModuleNotFoundError:
        print("atheris is missing: .venv/bin/pip install atheris", file=sys.stderr)
        return 1
    with atheris.instrument_imports(include=["wqfs", "tomllib", "json"]):
        from tests.fuzz.texts import TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(f"usage: python -m tests.fuzz.coverage keep|{'|'.join(TARGETS)} [options of libFuzzer]", file=sys.stderr)
        return 1
    target = sys.argv[1]
    folder = FOUND / target
    folder.mkdir(parents=True, exist_ok=True)
    for _, data in corpus(target):
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(folder)], TARGETS[target])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
