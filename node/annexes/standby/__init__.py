"""Standby: a second machine that holds a node's journal and takes over from it.

`primary` and `standby` are the protocol without I/O, which the simulation in `tests/simulation/standbys` drives;
docs/decisions/0034-standby.md says what it promises. The rest are sockets, files and the lease store around it.
"""
