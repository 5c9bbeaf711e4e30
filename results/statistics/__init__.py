"""Statistics over few seeds: intervals, tests, ranks, crossings."""
