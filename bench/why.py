"""Why a target is missed: a line by hand for each row that misses one, printed into RESULTS.md."""

_FLOOR = (
    "the C server itself takes 0.29 to 0.30 of pyfuse3's time, so that 0.35 leaves Python 1.3 to 2 us; "
    "it is met or missed by a few percent from run to run"
)
_COLD = (
    "after each sleep Python's code is cold. Measured inside the server (clocks in a copy of the code, 2,200 "
    "wake-ups): 2.6 us from the end of poll to having the request, 6.9 us from there to the reader's answer, "
    "which take 3.8 us when the same is done in a loop, and 8.4 us in the write that wakes the reader, where "
    "the reader may already run"
)

WHY: dict[str, str] = {
    "read": _FLOOR,
    "read_empty": _FLOOR,
    "poll": "in this run the machine was slower by a third to a half for every server, and unevenly so; see "
    '"rounds from .. to". It was met (0.33) in the quieter runs before',
    "post_line": "in this run the machine was slower by a third to a half for every server; 59,700/s in a quieter "
    "run before, of nearly the same code",
    "ioctl": "as the reads: 1.24 x in the whole run before, 1.11 x in a part of one of the same day, both of the code "
    "before",
    "post_block": "in this run the machine was slower by half for every server; 58,000/s in the better rounds of runs "
    "of the same day",
    "ioctl_busy": "making, raising and catching the refusal and keeping its sentence for the file `errors` "
    "takes 1.3 us more than an unknown ioctl; the C server keeps none",
    "write": "the C server takes 0.30 of pyfuse3's time; parsing the record, giving it a number and queueing it in "
    "two shapes (queue and log) takes 2 us in Python",
    "wake": _COLD,
    "wake_p99": _COLD + "; the 99th percentile is mostly the machine's noise, on the C server too",
    "wake_text": "a command is parsed, looked up, carried out and delivered in 9 us when warm, more when cold; "
    "met or missed by a few percent from run to run",
    "wake_text_p99": "as the median; the 99th percentile is mostly the machine's noise",
    "fanout_flat": "the figure is the whole write divided by the watches, so that at 100 watches the 14 us of the "
    "write itself count for 0.14 us each; the row below is without them",
}
