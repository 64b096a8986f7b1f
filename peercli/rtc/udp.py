"""A UDP socket in batches: of the ICE agent's, but read and written past asyncio.

It uses segmentation (GSO) and coalescing (GRO) where the kernel has them, which is found out by trying.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import sys
from typing import Any

from aioice.ice import StunProtocol

__all__ = ["GSO_BYTES", "UdpSocket"]

logger = logging.getLogger(__name__)

SOCKET_BUFFER = 4 << 20  # bytes asked of the kernel, which gives what it will
GSO_BYTES = 65_000  # bytes in one GSO call, …
GSO_SEGMENTS = 64  # … and datagrams

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_PROBE = 0, 3
_SEGMENT_SIZE = struct.Struct("=H")
_INT = struct.Struct("=i")


class UdpSocket:
    """A socket of the ICE agent's.

    Args:
        coalesce: whether datagrams may arrive glued. asyncio reads the same socket, and does not hear of
            their size.

    Attributes:
        protocol: aioice's, whose socket it is.
        can_probe: whether datagrams can be sent that are lost where they do not fit.
        stranded: whether this machine has been found to have lost the socket's address.
    """

    def __init__(self, protocol: StunProtocol, *, coalesce: bool) -> None:
        self.protocol = protocol
        self.stranded = False
        self._socket: socket.socket = protocol.transport.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        self._view = memoryview(bytearray(1 << 16))
        self._ancillary = socket.CMSG_SPACE(_INT.size)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._try_option(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        self.can_probe = self._may_fragment(True)
        self._segments = self._try_option(_SOL_UDP, _UDP_SEGMENT, 0)
        self._try_option(_SOL_UDP, _UDP_GRO, coalesce)

    def _try_option(self, level: int, option: int, value: int) -> bool:
        try:
            self._socket.setsockopt(level, option, value)
        except OSError:
            return False
        return True

    def _may_fragment(self, allowed: bool) -> bool:
        """Allow what follows to be cut by IP, or forbid it. False where that is not known how to do.

        SCTP gives a chunk its number once and for all: what was sent when the path took more goes out in
        fragments now, or never.
        """
        if sys.platform != "linux":
            return False
        discovery = _PMTUDISC_DONT if allowed else _PMTUDISC_PROBE
        if self._socket.family == socket.AF_INET6:
            return self._try_option(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discovery)
        return self._try_option(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discovery)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> tuple[memoryview, int, tuple[Any, ...]] | None:
        """What is waiting, good until the next call; the size of the datagrams in it, and their source.

        None: nothing is waiting.
        """
        try:
            count, ancillary, _, address = self._socket.recvmsg_into([self._view], self._ancillary)
        except BlockingIOError:
            return None
        except OSError:  # an ICMP error for something sent before
            return self._view[:0], 0, ()
        segment = count
        for level, kind, value in ancillary:
            if level == _SOL_UDP and kind == _UDP_GRO:
                segment = _INT.unpack(value[: _INT.size])[0]
        return self._view[:count], segment, address

    def send(self, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
        """Send datagrams of `size` bytes, the last one perhaps shorter; how many bytes went.

        Datagrams that the path cannot take at all count as sent, and are lost.
        """
        if self._segments and len(datagrams) > size:
            limit = min(GSO_BYTES // size, GSO_SEGMENTS) * size
            option = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
            for start in range(0, len(datagrams), limit):
                try:
                    self._socket.sendmsg([datagrams[start : start + limit]], option, 0, address)
                except BlockingIOError:
                    return start
                except OSError as error:
                    if error.errno == errno.EIO:  # the interface cannot, after all
                        self._segments = False
                    if error.errno in (errno.EIO, errno.EMSGSIZE, errno.EINVAL):  # too large for it, by now
                        return start + self._send_singly(datagrams[start:], size, address)
            return len(datagrams)
        return self._send_singly(datagrams, size, address)

    def _send_singly(self, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
        for start in range(0, len(datagrams), size):
            try:
                self._socket.sendto(datagrams[start : start + size], address)
            except BlockingIOError:
                return start
            except OSError as error:
                logger.debug("a datagram of %d bytes to %s: %s", size, address, error)
                if error.errno in (errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
                    self.stranded = not self._has_address()
        return len(datagrams)

    def _has_address(self) -> bool:
        """Whether another socket could be bound where this one is."""
        try:
            with socket.socket(self._socket.family, socket.SOCK_DGRAM) as other:
                other.bind((self._socket.getsockname()[0], 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
        return True

    def probe(self, datagram: memoryview, address: tuple[str, int]) -> None:
        """Send a datagram that is lost if it does not fit the path."""
        self._may_fragment(False)
        try:
            self._socket.sendto(datagram, address)
        except OSError:
            logger.debug("a probe of %d bytes to %s does not leave this machine", len(datagram), address)
        self._may_fragment(True)
