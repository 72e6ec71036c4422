"""Bytes at the end of readable memory: whoever reads past them dies of SIGSEGV.

One NUL is still readable, as it is behind every `bytes` and `bytearray` of CPython.
"""

from __future__ import annotations

import ctypes
import mmap

_PROT_NONE = 0


class Fence:
    """Memory for one piece of data at a time, with a page behind it that nobody may touch."""

    def __init__(self, capacity: int = 1 << 20) -> None:
        self._end = -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, self._end + mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(start + self._end), mmap.PAGESIZE, _PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, data: bytes | bytearray) -> memoryview:
        """A view of `data` that ends before the fence; good until the next call."""
        start = self._end - 1 - len(data)
        view = memoryview(self._memory)
        view[start : self._end] = bytes(data) + b"\0"
        return view[start : self._end - 1]
