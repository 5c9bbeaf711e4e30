"""Fields: contract of a dataset, layout on disk, preparation, checks, windows."""
