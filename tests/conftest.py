"""For all tests: threads that wait sleep instead of spin, since tests run several processes on few cores.

Signals arrive, too: `nohup` and a shell's background make a process ignore some, and tests send them. The table of
`make faults` is gathered in `faults.py`.
"""

import os
import signal

from faults import (
    pytest_runtest_logreport,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_terminal_summary,
    tried,
)

from jukebox.utils.command_line import wait_politely

# Half an hour of training: `make heard`.
collect_ignore = [] if os.environ.get("JUKEBOX_HEARD") else ["training/test_heard.py"]

__all__ = [
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_terminal_summary",
    "tried",
]

wait_politely()

signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
