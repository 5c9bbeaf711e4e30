"""Datasets, one file each; a file in this folder is a dataset."""
