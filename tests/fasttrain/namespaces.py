"""Hosts on one machine: network namespaces on a bridge, with addresses that nobody else uses."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

NETWORK = "10.213.7"


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def why_not() -> str:
    """Why none can be made here; empty if they can."""
    if shutil.which("ip") is None:
        return "no ip here: Debian's iproute2"
    if os.geteuid() != 0:
        return "network namespaces take root"
    tried = Hosts(1)
    try:
        tried.open()
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"
    finally:
        tried.close()
    return ""


class Hosts:
    """So many of them, numbered from 1, until `close`."""

    bridge = f"ft{os.getpid()}"

    def __init__(self, count: int) -> None:
        self.numbers = range(1, count + 1)

    def open(self) -> None:
        """Make them."""
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "link", "set", self.bridge, "up")
        for number in self.numbers:
            own, link = self.name(number), f"{self.bridge}-{number}"
            inside = "ip", "-n", own
            run("ip", "netns", "add", own)
            run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", own)
            run("ip", "link", "set", link, "master", self.bridge, "up")
            run(*inside, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "link", "set", "lo", "up")

    @classmethod
    def name(cls, number: int) -> str:
        return f"{cls.bridge}-{number}"

    @staticmethod
    def address(number: int) -> str:
        return f"{NETWORK}.{number}"

    def cut(self, number: int) -> None:
        """Take a host off the network."""
        run("ip", "link", "set", f"{self.bridge}-{number}", "down")

    def on(self, number: int, command: Sequence[object]) -> list[str]:
        """The command as it is run on a host."""
        return ["ip", "netns", "exec", self.name(number), *map(str, command)]

    def end(self, number: int) -> None:
        """Kill all that runs on a host."""
        listed = ["ip", "netns", "pids", self.name(number)]
        found = subprocess.run(listed, capture_output=True, text=True).stdout
        for pid in found.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing of them."""
        for number in self.numbers:
            self.end(number)
            subprocess.run(["ip", "netns", "del", self.name(number)], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
