"""Every Python that finds this folder on its path writes down what it runs under, and each attempt to reach beyond.

Why it exists: "no network at run time" and "the same bytes under a decimal comma" are tested by watching, in all
processes of a run, kernels of notebooks too. In: the environment variable NETWORK_LOG, a file; NETWORK_CUT, if attempts
shall fail besides; PROCESS_LOG, a file. Out: one line an attempt; one line a process, after it took up the locale of
its environment: its decimal point and OMP_NUM_THREADS.
"""

import contextlib
import locale
import os
import sys

LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOCAL = ("127.", "localhost", "::1", "0.0.0.0")


def note_attempt(event: str, arguments: tuple) -> None:
    """Write an attempt to look up or to reach another machine into the log; paths of local sockets are none."""
    if event not in LOOKUPS + SENDS:
        return
    address = arguments[0] if event in LOOKUPS else arguments[1]
    host = address[0] if isinstance(address, tuple) else address if event in LOOKUPS else None
    if host is None or str(host).startswith(LOCAL):
        return
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(f"{event} {host}\n")
    if os.environ.get("NETWORK_CUT"):
        raise OSError(101, f"the network is cut: {host}")


if os.environ.get("NETWORK_LOG"):
    sys.addaudithook(note_attempt)
if os.environ.get("PROCESS_LOG"):
    with contextlib.suppress(locale.Error):  # Python itself leaves the decimal point alone
        locale.setlocale(locale.LC_ALL, "")
    with open(os.environ["PROCESS_LOG"], "a") as log:
        log.write(f"{locale.localeconv()['decimal_point']} {os.environ.get('OMP_NUM_THREADS')}\n")
