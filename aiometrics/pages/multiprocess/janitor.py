"""Removes the directory of a service once its last process is gone, however that ended.

Run as a program, which must not need the package: ``janitor.py DIRECTORY PID STARTED``. No process
of the service could do it: a worker cannot know that its supervisor is about to end too, and none
of them acts when it is killed. It sleeps in the kernel until there is something to do.
"""

import os
import sys
import time

INTERVAL_SECONDS = 0.5
#: SIGHUP, SIGINT, SIGQUIT and SIGTERM, by which systemd ends all processes of a service at once.
#: The module ``signal`` would add a third to the memory of this process.
SIGNALS = (1, 2, 3, 15)


def lives(pid: int, started: int) -> bool:
    """Return whether the process has not ended. It started that many clock ticks after the boot."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and fields[19] == str(started)


def is_run(pid: int, started: int) -> bool:
    """Return whether a process has not ended that is, or descends from, an ``aiometrics run``.

    That became the process ``pid``, which may have ended before its service.
    """
    variable = f"AIOMETRICS_RUN={pid}-{started}".encode()
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if variable in file.read().split(b"\0"):
                    return True
        except OSError:
            continue  # it is no process, has ended, or is not ours
    return False


def is_written(directory: str, *, wait: bool = False) -> bool:
    """Return whether a process holds the lock of one of the pages, or wait until none does."""
    import fcntl  # noqa: PLC0415 - not every system has it

    with os.scandir(directory) as entries:
        for entry in entries:
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
    return False


def remove_if_abandoned(directory: str, pid: int, started: int) -> bool:
    """Remove the directory if that process, all that it ran and all that write there are gone.

    Returns whether it is gone.
    """
    if lives(pid, started) or is_run(pid, started):
        return False
    try:
        if is_written(directory):
            return False
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # it was written to in between, or is not ours
    return True


def wait_for_end(pid: int, started: int) -> None:
    """Return when the process has ended."""
    import select  # noqa: PLC0415 - of use to this process alone

    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        descriptor = -1  # it has ended, or the system has no such descriptors
    while lives(pid, started):
        if descriptor >= 0:
            select.select([descriptor], [], [])
        else:
            time.sleep(INTERVAL_SECONDS)


def main(directory: str, pid: int, started: int) -> None:
    """Wait in the background until the directory can be removed."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - as above

    for number in SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if os.fork():
        os._exit(0)  # so that it is no child of a process of the service
    os.setsid()
    os.chdir("/")
    wait_for_end(pid, started)
    while os.path.isdir(directory) and not remove_if_abandoned(directory, pid, started):
        time.sleep(INTERVAL_SECONDS)
        try:
            is_written(directory, wait=True)
        except OSError:
            continue


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
