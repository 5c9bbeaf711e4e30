"""Plans: finished and open cells of a suite, and estimates of their time."""
