"""For all tests: threads that wait sleep instead of spin, since tests run several processes on few cores."""

from jukebox.utils.command_line import wait_politely

wait_politely()
