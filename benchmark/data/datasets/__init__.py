"""Datasets, one file each; found because they lie here."""
