"""Calls over bad paths: they degrade, and recover."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.netlab.lab import Lab, Node, Wire
from tests.netlab.servers import broker
from tests.netlab.shaper import Shape

DELAY = 0.02  # s, each way
FLUENT = 15  # frames in a second: half of those that are sent


class Call:
    """A call between two nodes, and what the callee says of it."""

    def __init__(self, lab: Lab, shape: Shape, seconds: int) -> None:
        self.here, self.there = lab.node("here"), lab.node("there")
        self.wire: Wire = lab.wire(self.here, self.there, shape)
        self.broker = broker(self.there, self.there.address)
        self._callee = self._start(self.there, "answer")
        assert "listening" in self.second()
        self._caller = self._start(self.here, "call", "--seconds", str(seconds))

    def _start(self, node: Node, role: str, *options: str) -> subprocess.Popen[str]:
        return node.start(sys.executable, "-m", "tests.call_end", role, self.broker, *options)

    def second(self) -> dict[str, Any]:
        """What came in the next second."""
        assert self._callee.stdout
        facts: dict[str, Any] = json.loads(self._callee.stdout.readline())
        return facts

    def seconds(self, count: int) -> list[dict[str, Any]]:
        """The same for some seconds."""
        return [self.second() for _ in range(count)]

    def end(self) -> None:
        """Let it come to its end."""
        assert self._callee.wait(30) == 0
        assert self._caller.wait(30) == 0


def test_losses(lab: Lab) -> None:
    """With 2 % and with 5 % of the packets lost the picture goes on, and nothing stays of it."""
    call = Call(lab, Shape(delay=DELAY), seconds=16)
    call.seconds(2)
    for loss in (0.02, 0.05):
        call.wire.reshape(Shape(delay=DELAY, loss=loss))
        came = call.seconds(5)
        assert sum(each["frames"] for each in came) > 5 * FLUENT, came
        assert came[-1]["lost"] > 0
    call.wire.reshape(Shape(delay=DELAY))
    after = call.seconds(3)[-1]
    assert after["frames"] > FLUENT
    assert after["codec"] == "VP8"
    call.end()


def test_beside_a_transfer(lab: Lab) -> None:
    """A pipe fills the path; the call makes do with what is left."""
    call = Call(lab, Shape(delay=DELAY, rate=5e6, queue=25_000), seconds=14)
    call.seconds(1)
    peercli, common = (sys.executable, "-m", "peercli", "pipe"), ("--server", call.broker, "--ice", "none")
    receiver = call.there.start(*peercli, "--id", "sink", "--recv-only", *common, stdout=subprocess.DEVNULL)
    with open("/dev/zero", "rb") as zeros:
        sender = subprocess.Popen(
            call.here.inside(*peercli, "sink", "--send-only", *common),
            stdin=zeros,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        call.seconds(4)
        before = call.wire.counters()[0].bytes
        came = call.seconds(6)
        carried = call.wire.counters()[0].bytes - before
        assert sum(each["frames"] for each in came) > 6 * FLUENT, came
        assert carried > 6 * 5e6 / 8 / 2, "the pipe did not fill the path"
        call.end()
    finally:
        for process in (sender, receiver):
            process.kill()
            process.wait()
