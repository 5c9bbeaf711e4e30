"""Everything that speaks to SLURM: submission, the collecting job, queue, probes, logs."""
