"""Pictures of data files, by the kind of their states."""

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmark.data.layout import StoredField
from benchmark.data.show.animation import animation
from benchmark.data.show.pictures import contact_sheet
from benchmark.kinds import particle_pictures

Painter = Callable[[StoredField, Path], None]
PAINTERS: Mapping[str, Mapping[str, Painter]] = {
    "field": {".png": contact_sheet, ".gif": animation},
    "particles": {".png": particle_pictures.contact_sheet, ".gif": particle_pictures.animation},
}
"""Kind -> suffix of a file -> function that writes it."""
