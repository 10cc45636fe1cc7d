"""Ground floor of the project: maps, heaps, buckets, waits and files that know nothing of networks or exchanges.

`exchange` and `config` may import it, and nothing else of `p2p`.
"""
