"""wqfs measured beside its peers; `python -m bench` runs it, RESULTS.md is what it found."""
