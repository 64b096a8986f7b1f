"""A PeerServer-compatible broker."""
