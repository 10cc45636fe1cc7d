"""Bridge to Bitfinex's Grenache: discovery, links and services by way of Grapes, and a Grape inside the node."""
