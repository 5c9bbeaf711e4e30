"""Figures of a board as SVG."""
