"""Our data path against other WebRTC stacks, each one a process that does what it is told.

An endpoint reads requests from stdin and answers on stdout, a line of JSON each:

    {"id": 1, "do": "offer", "label": "x", "ordered": true}      {"id": 1, "result": "v=0…"}
    {"id": 2, "do": "receive", "channel": 7, "count": 1}         {"id": 2, "error": "what went wrong"}

Requests are begun in their order and answered as they are done; at the end of stdin the endpoint ends. It
knows:

    offer label ordered         an SDP with a first channel (number 0) and with every candidate in it
    answer sdp                  the SDP that answers it
    accept sdp                  null
    open label ordered          the number of a new channel, once it is open
    accepted                    the next channel that the far side has opened: {channel, label, ordered}
    opened channel              null, once it is open
    send channel messages       null, once the stack has taken them. A message is {"text": "…"}, or
                                {"bytes": n}: as many that count (`counted`)
    receive channel count       that many messages, each as {text: bool, size: bytes, sha256: hex}
    pump channel count size counting
                                null, once that many messages of `size` bytes were taken; `counting`: they
                                count from the first byte to the last, so that no two are alike
    sink channel size digest    the number of messages in which that many bytes came. `digest`: [number,
                                SHA-256 of all, in the order of what they begin with if the channel has none]
    echo channel                null; from now on what comes is sent back
    ping channel count          the seconds that each of `count` 1-byte messages took to come back
    close channel               null
    closed channel              null, once the far side has closed it

`endpoint.py` has this for the stacks that speak Python, `w3c.mjs` for those in Node, `pion/` for Go.
`tests/bench` measures with the same endpoints.
"""
