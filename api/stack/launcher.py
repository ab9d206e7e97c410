"""Becomes a child of the stack: sets affinity and parent-death signal, then execs the command.

Usage: `python -m api.stack.launcher CORES PARENT -- COMMAND...`, where CORES is `0,1` or `any`,
and PARENT is the process whose end also ends the command, or `none`. Standard library only: it
must start quickly. Affinity set here is inherited by every thread that the command starts.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def command_line(
    command: tuple[str, ...], *, cores: tuple[int, ...], parent: int | None
) -> tuple[str, ...]:
    """The argument vector that runs `command` through this launcher."""
    chosen = ",".join(map(str, cores)) or "any"
    launcher = (sys.executable, "-m", "api.stack.launcher")
    return (*launcher, chosen, "none" if parent is None else str(parent), "--", *command)


def keep_to(cores: set[int]) -> None:
    """Binds this process to `cores` where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def end_with(parent: int) -> None:
    """Asks the kernel for a SIGTERM when the parent's main thread ends (Linux only)."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def main(arguments: list[str]) -> None:
    """Prepares this process as asked and turns it into the command."""
    cores, parent, dashes, *command = arguments
    if dashes != "--" or not command:
        raise SystemExit("usage: launcher CORES PARENT -- COMMAND...")
    if cores != "any":
        keep_to({int(core) for core in cores.split(",")})
    if parent != "none":
        end_with(int(parent))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
