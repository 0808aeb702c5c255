"""Jukebox: music with singing, made from raw audio (arXiv 2005.00341)."""

from jukebox.version import __version__

__all__ = ["__version__"]
