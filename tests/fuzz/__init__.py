"""Hostile input, seeded and as much of it as one likes. docs/reference/hostile-input.md says what was run.

channel    `python -m tests.fuzz.channel`: FUSE requests, random and mutated, in front of a channel without a kernel
whole      `python -m tests.fuzz.whole`: such requests for the whole server, pyfuse3 and libfuse with it
requests   what those requests are
texts      each text and structure that somebody else writes, as a function of bytes that may refuse only as documented
coverage   `python -m tests.fuzz.coverage TARGET`: the same functions, led by coverage (atheris); corpus/ is its start
"""
