"""Virtual time, servers and networks, which demos, course and tests share."""
