"""Checks of a machine or cluster before hundreds of cells run there."""
