"""Solvers that datasets share."""
