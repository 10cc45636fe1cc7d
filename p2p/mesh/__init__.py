"""Routing of messages over the mesh of links.

`message_router` (MessageRouter) joins three owners of state: `broadcast_tree` (to all nodes), `delivery` (to one node, and
relaying for others) and `message_budget`. `signed_broadcast` proves broadcasts of any kind.
"""
