"""Pictures, animations, data cards and tables of data files."""
