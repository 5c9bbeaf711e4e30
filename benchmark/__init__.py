"""What is measured: cells, data, models, training, evaluation. Knows nothing of SLURM, Ray and MLflow."""
