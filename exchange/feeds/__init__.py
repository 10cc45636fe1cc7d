"""Feeds, the signed event logs of each owner: writing, replication, presence leases, startup fence."""
