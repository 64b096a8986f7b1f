"""A look, at import, for what we use of other libraries' insides, so that a change is told by its name."""

from __future__ import annotations

import os

__all__ = ["STOCK", "needs"]

STOCK = "PEERCLI_DATAPATH"
"""The environment variable that, set to `aiortc`, has aiortc's own SCTP carry the data: the fallback."""


def needs(owner: object, *names: str) -> None:
    """Make sure that a class has these methods, or its objects these attributes; or a module these names.

    Raises:
        ImportError: one of them is gone.
    """
    if os.environ.get(STOCK) == "aiortc":
        return
    # Attributes are set by __init__, whose code knows their names.
    code = getattr(getattr(owner, "__init__", None), "__code__", None)
    known = code.co_names if code else ()
    for name in names:
        if name not in known and not hasattr(owner, name):
            raise ImportError(
                f"{owner!r} has changed: {name} is gone, and peercli relies on it; {STOCK}=aiortc may help"
            )
