"""List of the kinds of states."""

from collections.abc import Mapping

from benchmark.kinds.field import Field
from benchmark.kinds.kind import Kind
from benchmark.kinds.particles import Particles

FIELD, PARTICLES = Field(), Particles()
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (FIELD, PARTICLES)}
