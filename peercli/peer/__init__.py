"""Peers and their connections, in the shape of the PeerJS API."""
