"""Why a target is missed: a line by hand for each row that misses one, printed into RESULTS.md."""

WHY: dict[str, str] = {
    # "wake_p99": "what costs it, seen how",
}
