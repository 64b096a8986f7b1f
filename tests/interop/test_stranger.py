"""Pages whose addresses are hidden behind mDNS names, which is what real users' browsers do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import tools
from tests.brokers import BROKERS
from tests.interop.browsers import BROWSERS

# Browsers look for a default route, and for a network that takes multicast.
NETWORK = """
set -e
ip link set lo up
ip link add here type veth peer name there
ip address add 10.77.0.1/24 dev here
ip link set here up
ip link set there up
ip route add default via 10.77.0.2
exec "$@"
"""


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("browser", BROWSERS)
def test_a_page_that_hides_its_addresses(browser: str, broker: str) -> None:
    """The page and peercli find one another, whoever connects, though the page does not tell where it is."""
    tools.node_modules()
    tools.program("ip")
    network = [tools.program("unshare"), "--map-root-user", "--net", "sh", "-c", NETWORK, "sh"]
    if subprocess.run([*network, "true"], capture_output=True, check=False).returncode:
        tools.missing("a network namespace of one's own (unshare --net)")
    done = subprocess.run(
        [*network, sys.executable, "-m", "tests.interop.stranger", browser, broker],
        cwd=tools.INTEROP.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout
