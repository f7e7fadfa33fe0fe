"""Recording the packets of a namespace's devices, loopback excepted, and telling who has talked with whom."""

import re
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

Conversation = tuple[str, str, int, str, int]  # protocol, source, its port, destination, its port

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
IPV4 = 0x0800
COOKED = 113  # LINKTYPE_LINUX_SLL
COOKED_HEADER_BYTES = 16
HEAD_BYTES = 128  # of a packet: addresses and ports
BUFFER_KIB = 16 * 1024


@contextmanager
def recording(namespace: Path, path: Path) -> Iterator[None]:
    """Write what passes a namespace's devices to a pcap file; RuntimeError if a packet was missed."""
    command = [
        *("tcpdump", "-i", "any", "-y", "LINUX_SLL", "-s", str(HEAD_BYTES), "-B", str(BUFFER_KIB), "-Z", "root"),
        *("--immediate-mode", "-U", "-n", "-w", str(path), "not net 127.0.0.0/8"),
    ]
    tcpdump = subprocess.Popen(
        ["nsenter", f"--net={namespace}", *command],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert tcpdump.stderr is not None
    said = ""
    try:
        while "listening on" not in said:
            line = tcpdump.stderr.readline()
            if not line:
                raise RuntimeError(f"tcpdump has ended: {said.strip()}")
            said += line
        yield
        tcpdump.send_signal(signal.SIGINT)
        said = tcpdump.stderr.read()
    finally:
        tcpdump.kill()
        tcpdump.wait()
        tcpdump.stderr.close()
    missed = re.search(r"(\d+) packets dropped by kernel", said)
    if missed is None or missed[1] != "0":
        raise RuntimeError(f"tcpdump has missed packets: {said.strip()}")


def conversations(path: Path) -> dict[Conversation, int]:
    """Return the number of packets by protocol and ends; each direction apart; port 0 where there are none.

    TCP segments that travelled in one piece count as one. Packets that are not IPv4 have the protocol's number as
    "ethertype 0x..." and no addresses.
    """
    content = path.read_bytes()
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}[content[:4]]
    if struct.unpack(f"{order}I", content[20:24])[0] != COOKED:
        raise ValueError(f"{path}: not a recording of `recording`")
    found: Counter[Conversation] = Counter()
    place = 24
    while place < len(content):
        (captured,) = struct.unpack_from(f"{order}8xI", content, place)
        found[_conversation(content[place + 16 : place + 16 + captured])] += 1
        place += 16 + captured
    return dict(found)


def _conversation(frame: bytes) -> Conversation:
    (kind,) = struct.unpack_from("!H", frame, 14)
    if kind != IPV4:
        return f"ethertype {kind:#06x}", "", 0, "", 0
    packet = frame[COOKED_HEADER_BYTES:]
    source, destination = (str(ip_address(packet[at : at + 4])) for at in (12, 16))
    protocol = PROTOCOLS.get(packet[9], f"protocol {packet[9]}")
    first_fragment = struct.unpack_from("!H", packet, 6)[0] & 0x1FFF == 0
    ports = (0, 0)
    if protocol in ("tcp", "udp") and first_fragment:
        ports = struct.unpack_from("!HH", packet, (packet[0] & 15) * 4)
    return protocol, source, ports[0], destination, ports[1]
