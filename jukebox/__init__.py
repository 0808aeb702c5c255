"""Jukebox: music with singing, made from raw audio (arXiv 2005.00341)."""

from jukebox.utils.signals import is_command, start_quietly

if is_command():  # before all imports that take time
    start_quietly()

from typing import TYPE_CHECKING

from jukebox.utils.command_line import import_lazily
from jukebox.utils.errors import UserError
from jukebox.version import __version__

if TYPE_CHECKING:
    from jukebox.api import MusicModel, load
    from jukebox.music import Reconstruction, Song, Songs
else:
    __getattr__ = import_lazily(__name__, "api")

__all__ = ["MusicModel", "Reconstruction", "Song", "Songs", "UserError", "__version__", "load"]
