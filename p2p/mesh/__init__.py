"""Routing of messages over the mesh of links.

`message_router` (MessageRouter), `broadcast_tree`, `route_table`, `store_and_forward`, `signed_broadcast`,
`replay_guard`.
"""
