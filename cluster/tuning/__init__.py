"""Ray Tune: studies of hyperparameters, on this machine or inside an allocation of SLURM."""
