"""Reachability: the addresses at which this node can be dialled from outside, and the NAT before it."""
