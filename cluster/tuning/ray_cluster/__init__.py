"""A Ray cluster of our own: its nodes, and the processes that start and stop them."""
