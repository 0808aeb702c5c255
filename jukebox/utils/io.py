"""Audio files in and out, under the name that other people's code imports; the work is done in `utils/audio/`."""

from jukebox.utils.audio.index import get_duration_sec
from jukebox.utils.audio.read import EXTENSIONS, load_audio, probe_audio
from jukebox.utils.audio.reader import AudioError, resample_audio
from jukebox.utils.audio.write import WRITABLE, save_wav, write_audio

__all__ = [
    "EXTENSIONS",
    "WRITABLE",
    "AudioError",
    "get_duration_sec",
    "load_audio",
    "probe_audio",
    "resample_audio",
    "save_wav",
    "write_audio",
]
