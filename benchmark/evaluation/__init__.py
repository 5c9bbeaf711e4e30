"""Forecast and symmetry metrics of a model, and its costs."""
