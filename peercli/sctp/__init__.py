"""The SCTP association under every data channel: packets in, packets out, the time passed in."""
