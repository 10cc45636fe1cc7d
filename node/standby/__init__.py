"""Standby: a second machine that holds a node's journal and takes over from it.

Protocol classes without I/O; docs/decisions/0034-standby.md says what they promise. The simulation in
`tests/simulation/standbys` drives them. No command starts them yet.
"""
