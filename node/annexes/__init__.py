"""Optional parts of the product, each in a folder of its own that can be deleted.

An annex may import anything below (`node`, `p2p`, `exchange`, `config`); nothing imports an annex. The node, its
API and its command line find annexes through `node.parts.table`, which reads the `ANNEX` of each folder's
`annex` module.
"""
