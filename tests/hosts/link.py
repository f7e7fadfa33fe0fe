"""A network link in user space: packets between two TUN devices, with a delay, a rate, losses, and cuts.

    python link.py NAMESPACE DEVICE NAMESPACE DEVICE SEED

It makes both devices, says `ok`, and obeys a command a line of its standard input, each answered by `ok`:

    delay SECONDS   one way, both ways alike
    rate MBIT       Mbit/s each way, 0 for no limit
    loss SHARE      of the packets, in [0, 1]
    drop            packets vanish from now on, those on their way too: no side is told
    restore         they come through again
    detach          drops, and takes the second device away
    attach          makes it anew, in the namespace that now has the name; packets vanish until `restore`

It ends with its standard input, and the devices with it.

Each direction is a router's port. A packet waits until those before it have been sent at the rate, in a queue of
bounded length that drops what does not fit, and then travels for the delay; it never arrives early or out of order.
Where nothing is to be lost, the kernel hands over several TCP segments in one piece, as it does to network cards: a
piece is sent, and dropped, as a whole.
"""

import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from pathlib import Path

NAMESPACES = Path("/run/netns")
BUFFER_SECONDS = 0.25  # a router's queue at its rate
LEAST_BUFFER_BYTES = 128 * 1024  # at low rates it still takes one piece and more
MOST_BYTES = 65_535 + 10  # a piece and the header with which the kernel says how it is divided
HEADER_BYTES = 10
NO_DEVICE = -1
READS = 32  # in a row from one device, before the other has its turn
GRAIN, MOST_GRAIN_SECONDS = 0.1, 1e-3  # a share of the delay: what comes closer together is handled together
NICENESS = -10  # networks do not slow down because processors are busy

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02

LIBC = ctypes.CDLL(None, use_errno=True)


def _enter(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def open_device(namespace: str, device: str) -> int:
    """Make a TUN device in a named network namespace; it lasts as long as the descriptor."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)
            fcntl.ioctl(descriptor, TUNSETIFF, request)
        finally:
            _enter(home)
    finally:
        os.close(there)
        os.close(home)
    return descriptor


class Direction:
    """Packets from one device to the other."""

    def __init__(self, source: int, sink: int, seed: str) -> None:
        self.source = source
        self.sink = sink
        self.delay = 0.0
        self.seconds_per_byte = 0.0
        self.loss = 0.0
        self.dropping = False
        self.travelling: deque[tuple[float, bytes]] = deque()
        self._random = random.Random(seed)
        self._sent = 0.0  # when the rate has let the last packet through

    def change(self, quantity: str, value: float) -> None:
        """Set the delay in seconds, the rate in Mbit/s, or the loss; what is on its way has its own."""
        if quantity == "delay":
            self.delay = value
        elif quantity == "rate":
            self.seconds_per_byte = 8e-6 / value if value else 0.0
        else:
            self.loss = value

    def clear(self) -> None:
        """Lose what is on its way."""
        self.travelling.clear()
        self._sent = 0.0

    def take(self, now: float) -> None:
        """Read what the sender has for us; decide when each packet arrives, and whether."""
        if self.source == NO_DEVICE:
            return
        for _ in range(READS):
            try:
                packet = os.read(self.source, MOST_BYTES)
            except OSError:  # no more of them, or the device is down and has none
                return
            if self.dropping or (self.loss and self._random.random() < self.loss):
                continue
            arrives = now
            if self.seconds_per_byte:
                waits = max(self._sent - now, 0.0)
                if waits > max(BUFFER_SECONDS, LEAST_BUFFER_BYTES * self.seconds_per_byte):
                    continue
                self._sent = now + waits + (len(packet) - HEADER_BYTES) * self.seconds_per_byte
                arrives = self._sent
            arrives += self.delay
            if self.travelling:
                arrives = max(arrives, self.travelling[-1][0])  # the delay may have become shorter
            self.travelling.append((arrives, packet))

    def deliver(self, now: float) -> None:
        """Hand over what has arrived."""
        travelling = self.travelling
        while travelling and travelling[0][0] <= now:
            try:
                os.write(self.sink, travelling.popleft()[1])
            except OSError:  # the receiver's device is down: a cable without a machine
                continue


class Link:
    """Both directions, and the commands that change them."""

    def __init__(self, near: tuple[str, str], far: tuple[str, str], seed: str) -> None:
        self.far = far
        first, second = open_device(*near), open_device(*far)
        self.there = Direction(first, second, seed + " there")
        self.back = Direction(second, first, seed + " back")
        self._offload()

    @property
    def _attached(self) -> bool:
        return self.back.source != NO_DEVICE

    def _sources(self) -> list[int]:
        return [direction.source for direction in (self.there, self.back) if direction.source != NO_DEVICE]

    def _offload(self) -> None:
        whole = TUN_F_CSUM if self.there.loss else TUN_F_CSUM | TUN_F_TSO4
        for source in self._sources():
            fcntl.ioctl(source, TUNSETOFFLOAD, whole)

    def _change_far(self, descriptor: int) -> None:
        if self._attached:
            os.close(self.back.source)
        self.there.sink = self.back.source = descriptor
        self._offload()

    def _drop(self, dropping: bool) -> None:
        for direction in (self.there, self.back):
            direction.dropping = dropping
            direction.clear()

    def obey(self, line: str) -> None:
        """Carry out a command."""
        command, _, value = line.partition(" ")
        if command in ("drop", "restore"):
            self._drop(command == "drop")
        elif command == "detach":
            self._drop(True)
            self._change_far(NO_DEVICE)
        elif command == "attach":
            self._change_far(open_device(*self.far))
        elif command in ("delay", "rate", "loss"):
            for direction in (self.there, self.back):
                direction.change(command, float(value))
            self._offload()
        else:
            raise ValueError(f"no such command: {line!r}")

    def run(self) -> None:
        """Forward until the standard input ends."""
        pending = b""
        while True:
            now = time.monotonic()
            for direction in (self.there, self.back):
                direction.take(now)
                direction.deliver(now)
            due = [direction.travelling[0][0] for direction in (self.there, self.back) if direction.travelling]
            grain = min(self.there.delay * GRAIN, MOST_GRAIN_SECONDS)
            wait = max(min(due) - time.monotonic(), grain) if due else None
            watched = [0] if wait == grain else [0, *self._sources()]
            readable, _, _ = select.select(watched, [], [], wait)
            if 0 in readable:
                received = os.read(0, 4096)
                if not received:
                    return
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    self.obey(line.decode())
                    os.write(1, b"ok\n")


def main() -> None:
    """Run one link."""
    near, near_device, far, far_device, seed = sys.argv[1:]
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    link = Link((near, near_device), (far, far_device), seed)
    os.write(1, b"ok\n")
    link.run()


if __name__ == "__main__":
    main()
