"""Contract of a baseline as executable checks: `symbench check-baseline`, and the scaffold of `new-baseline`."""
