"""Networks of up to ten thousand nodes: the classes without I/O as discrete events."""
