"""For tests of programs that read notification pipes: a pytest plugin, there once wqfs is installed.

    def test_expiry(wqfs):
        wqfs.post("automount server:/home/ada /home/ada -t nfs4", "expire /home/ada")
        wqfs.expect("mount", "expiry", mountpoint="/home/ada")

Fixtures: `wqfs`, a mount for each test; `wqfs_session`, one for all; `wqfs_factory`, which makes them. The marker
`wqfs("strict,enobufs")` has the options of the fixture's mount. `plugin.py` has the fixtures, `mount.py` the mount,
`server.py` its daemon, `events.py` what `expect` waits for.
"""

from wqfs.testing.mount import PrivateMount, Refused, Watch

__all__ = ["PrivateMount", "Refused", "Watch"]
