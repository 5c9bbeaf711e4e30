"""Jobs (groups of cells), the worker that runs them, and the launcher for this machine."""
