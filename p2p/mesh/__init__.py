"""Message delivery over the mesh: MessageRouter, broadcast tree, routes, store and forward, replay guard."""
