"""Tells when a file is written to, by any process of the machine: inotify of Linux, which Python does not have."""

import ctypes
import os
import struct
from pathlib import Path

# https://man7.org/linux/man-pages/man7/inotify.7.html
_MODIFY, _DELETE = 0x2, 0x200
_BUFFER = 65_536  # bytes; one event takes up to 272
_EVENT = struct.Struct("iIII")  # watch, what, cookie, length of the name that follows


class FileWatch:
    """Watches files of one directory, which need not be there yet."""

    def __init__(self, directory: Path, names: set[str]) -> None:
        """Raises OSError where it cannot be done: on other systems, and when too many are watching already."""
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            begin, add = libc.inotify_init1, libc.inotify_add_watch
        except (AttributeError, TypeError):
            raise OSError("This system has no inotify.") from None
        self._names = {os.fsencode(name) for name in names}
        self._descriptor = begin(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if add(self._descriptor, os.fsencode(directory), _MODIFY | _DELETE) < 0:
            self.close()
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def fileno(self) -> int:
        """Readable when something may have been written."""
        return int(self._descriptor)

    def was_written(self) -> bool:
        """Whether one of the files was, since it was asked last."""
        found, more = False, True
        while more:
            try:
                events = os.read(self._descriptor, _BUFFER)
            except BlockingIOError:
                break
            at, more = 0, len(events) > _BUFFER // 2  # else there were no more than these
            while at < len(events):
                _, _, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                # Without a name it is that some events are lost, so it may have been this one.
                found = found or not length or events[at - length : at].rstrip(b"\0") in self._names
        return found

    def close(self) -> None:
        """Watch no more."""
        os.close(self._descriptor)
