"""aiortc's RTCPeerConnection, on our ICE agent and our data path."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from aiortc import RTCConfiguration, RTCDataChannel, RTCDtlsTransport, RTCPeerConnection

from peercli.errors import NegotiationFailed, PeerError
from peercli.rtc.channel import Channel, StockChannel
from peercli.rtc.datapath import SctpTransport
from peercli.rtc.dtls import DtlsTransport
from peercli.rtc.private import STOCK, needs

__all__ = ["PeerConnection"]

logger = logging.getLogger(__name__)

needs(
    RTCPeerConnection,
    *("_RTCPeerConnection__connect", "_RTCPeerConnection__sctp"),
    *("_RTCPeerConnection__createDtlsTransport", "_RTCPeerConnection__createSctpTransport"),
)


class PeerConnection(RTCPeerConnection):
    """aiortc's RTCPeerConnection with our ICE agent and our data path under it.

    With `PEERCLI_DATAPATH=aiortc` in the environment, aiortc's own SCTP carries the data: the fallback.

    Args:
        on_channel: called with each channel that the far side opens.
        on_end: called when the association is over.
    """

    def __init__(
        self,
        configuration: RTCConfiguration,
        *,
        on_channel: Callable[[Channel], None],
        on_end: Callable[[PeerError], None],
    ) -> None:
        super().__init__(configuration)
        self._on_channel = on_channel
        self._on_end = on_end
        self._connecting: set[asyncio.Task[None]] = set()
        self._stock = os.environ.get(STOCK) == "aiortc"
        self.on("datachannel", self._stock_channel_came)

    def open_channel(self, label: str, *, ordered: bool) -> Channel:
        """What createDataChannel is to aiortc."""
        if self._stock:
            return StockChannel(self.createDataChannel(label, ordered=ordered))
        if self.sctp is None:
            self._RTCPeerConnection__createSctpTransport()
        transport: object = self.sctp  # ours, whatever aiortc says
        assert isinstance(transport, SctpTransport)
        return transport.open_channel(label, ordered=ordered)

    def _stock_channel_came(self, channel: RTCDataChannel) -> None:
        self._on_channel(StockChannel(channel))

    async def close(self) -> None:
        await super().close()
        if self._connecting:
            await asyncio.wait(self._connecting)
        if self.sctp is not None and isinstance(self.sctp.transport, DtlsTransport):
            self.sctp.transport.release()

    async def _RTCPeerConnection__connect(self) -> None:
        """Run by aiortc in a task that it does not look after."""
        task = asyncio.current_task()
        assert task is not None
        self._connecting.add(task)
        try:
            await super()._RTCPeerConnection__connect()  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001  whatever the far side's description leads aiortc to
            logger.info("the connection could not be set up: %r", error)
            self._on_end(NegotiationFailed("the encrypted session with the peer could not be set up"))
        finally:
            self._connecting.discard(task)

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:
        return DtlsTransport.adopt(super()._RTCPeerConnection__createDtlsTransport())  # type: ignore[misc]

    def _RTCPeerConnection__createSctpTransport(self) -> None:
        super()._RTCPeerConnection__createSctpTransport()  # type: ignore[misc]
        if self._stock:
            return
        stock = self.sctp
        assert stock is not None
        ours = SctpTransport(
            stock.transport,
            on_channel=self._on_channel,
            on_end=self._on_end,
            has_media=lambda: bool(self.getTransceivers()),
        )
        ours._bundled = stock._bundled
        self._RTCPeerConnection__sctp = ours
