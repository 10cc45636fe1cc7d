"""Services offered by nodes and called with client-side load balancing.

`service_directory` (announcements), `service_server`, `balanced_caller` with
`service_transport`, `balancers` and `call_figures`, `health_gossip`, `fault_injection`; `service_mesh` joins them on the overlay.
"""
