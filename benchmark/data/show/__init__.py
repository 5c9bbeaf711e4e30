"""Pictures, animations, data cards and tables of stored fields."""
