"""Cells, data, models, training and evaluation. Independent of SLURM, Ray and MLflow."""
