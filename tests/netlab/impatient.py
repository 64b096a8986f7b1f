"""peercli whose consent runs out sooner (RFC 7675), so that a test need not wait for half a minute."""

from __future__ import annotations

from peercli.__main__ import main
from peercli.rtc import ice

__all__ = ["CONSENT_TIMEOUT"]

CONSENT_TIMEOUT = 10.0  # s

if __name__ == "__main__":
    ice.CONSENT_TIMEOUT, ice.CONSENT_INTERVAL = CONSENT_TIMEOUT, 1.0
    main()
