"""WebRTC: the only importer of aiortc and av."""
