"""Simulators that several datasets share."""
