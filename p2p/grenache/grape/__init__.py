"""A Grape in this process: DHT node, directory, HTTP API."""
