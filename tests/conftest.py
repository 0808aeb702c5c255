"""For all tests: threads that wait sleep instead of spin, since tests run several processes on few cores.

Signals arrive, too: `nohup` and a shell's background make a process ignore some, and tests send them.
"""

import signal

from jukebox.utils.command_line import wait_politely

wait_politely()

signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
