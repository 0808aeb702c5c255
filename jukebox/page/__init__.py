"""The parts of the player page that `jukebox.save_html` writes: its templates, its letter times and its pictures.

With save_html at the bottom of the imports: only numpy and the standard library.
"""
