"""Feeds, the signed event logs of each owner: writing, replication, presence leases, startup fence.

exchange_messages   messages of the exchange between nodes
feed                state of a feed, a feed as a node holds it, its writer
replication         digests, requests for missing ranges, snapshots
missing_feeds       feeds of which others hold more, schedule of the requests for them
request_budget      shares of the requests under way, token buckets, timeouts
feed_index          feeds by owner and market, heads in order, summary
feed_replica        another owner's feed: batches checked and applied in sequence
checkpoint_pages    pages of open orders for a checkpoint, packed in slices
checkpoint_rule     the writer's rule for checkpoints, and its enforcement
unconnected_batches  batches that wait for events before them, bounded in bytes
owner_weights       the heaviest owner, which loses when a total is exceeded
feed_limits         limits on orders, rates and feeds of other owners, feeds given up
presence            presence leases: whose orders are shown
presence_exchange   presences handed on between neighbours
startup_fence       wait for the neighbours' digests after a restart
"""
