"""Running cells: on this machine, on SLURM clusters, and in Ray Tune."""
