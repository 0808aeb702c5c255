"""The one home of the version number: `jukebox.__version__`, `--version` and setup.py read it."""

__version__ = "1.0.0"
