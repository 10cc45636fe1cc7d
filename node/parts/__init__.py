"""Interface between a node and its annexes, and the table by which they are found."""
