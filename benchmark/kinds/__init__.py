"""Kinds of states, fields and particles: what evaluation, contract and pictures must know of one and not of another."""
