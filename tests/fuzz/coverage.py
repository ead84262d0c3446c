"""The functions of texts.py led by coverage: `python -m tests.fuzz.coverage TARGET [options of libFuzzer]`.

By hand, for atheris is 60 MB and not in the lock: `.venv/bin/pip install atheris` first. libFuzzer's options follow,
such as `-max_total_time=300`, `-runs=1000000`, `-seed=1`. It begins with corpus/TARGET; what it finds goes to
.fuzz/TARGET, and `-merge=1 tests/fuzz/corpus/TARGET .fuzz/TARGET` takes into the corpus what covers more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
FOUND: Final = Path(__file__).resolve().parents[2] / ".fuzz"


def main() -> int:
    try:
        import atheris
    except ModuleNotFoundError:
        print("atheris is missing: .venv/bin/pip install atheris", file=sys.stderr)
        return 1
    with atheris.instrument_imports(include=["wqfs", "tomllib", "json"]):
        from tests.fuzz.texts import TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(f"usage: python -m tests.fuzz.coverage {'|'.join(TARGETS)} [options of libFuzzer]", file=sys.stderr)
        return 1
    target = sys.argv[1]
    folders = []
    if not any(word.startswith("-merge") for word in sys.argv[2:]):
        (FOUND / target).mkdir(parents=True, exist_ok=True)
        folders = [str(FOUND / target), str(CORPUS / target)]
    atheris.Setup([sys.argv[0], *sys.argv[2:], *folders], TARGETS[target])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
