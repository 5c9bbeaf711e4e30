"""SLURM: submission, the collecting job, queue, probes, logs."""
