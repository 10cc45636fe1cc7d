"""Feeds, the signed event logs of each owner: writing, replication, presence leases, startup fence.

exchange_messages   messages of the exchange between nodes
feed                state of a feed, its writer, its replicas
replication         digests, requests for missing ranges, snapshots
request_budget      shares of the requests under way by claimant, timeouts
presence            presence leases: whose orders are shown
startup_fence       wait for the neighbours' digests after a restart
"""
