"""Imported by the fork server of the workers alone, for what it does there.

What asks a whole group of processes to stop reaches the fork server too, and workers that have just
been forked from it. It ends with its last worker, and a worker listens as soon as it can stop in
order: until then both ignore it.
"""

import signal

from ...machine.interrupts import STOPS

for _number in STOPS:
    signal.signal(_number, signal.SIG_IGN)
