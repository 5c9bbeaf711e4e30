"""Layers and losses that several baselines share."""
