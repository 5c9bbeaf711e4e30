"""Training of one cell: loop, ranks, checkpoint, environment, record."""
