"""wqfs: the Linux notification pipe ("watch queue") as files, on any kernel."""

__version__ = "0.1.0"
