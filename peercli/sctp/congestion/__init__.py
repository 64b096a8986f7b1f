"""Congestion control: how much may be in flight, and how fast it may leave."""

from __future__ import annotations

from peercli.sctp.congestion.bbr import Bbr
from peercli.sctp.congestion.controller import AckSample, Controller
from peercli.sctp.congestion.cubic import Cubic

__all__ = ["AckSample", "Bbr", "Controller", "Cubic"]
