"""Hours of load of every kind on one mount whose daemon is killed again and again: `make soak`.

load     who posts, reads, opens, closes, waits, is interrupted and is refused, all at once
latency  a process that times a record from its post to its read
measure  memory and descriptors of the mount's processes
verdict  what was seen against what must hold, and the report
"""
