"""The parts of the player page that `jukebox.save_html` writes: its templates, its letter times and its pictures.

Stands on the ground with save_html: numpy and the standard library alone.
"""
