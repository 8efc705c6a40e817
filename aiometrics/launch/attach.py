"""``aiometrics attach`` and ``detach``: run a script in a process that runs already."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

#: The script is run by the main thread of the process between any two instructions, perhaps in the
#: middle of an import. So it imports nothing that might be half imported, and only starts a thread.
#: It may be given to the process again, and then does nothing.
_SCRIPT = """
def _aiometrics(call, result, _threads=__import__("_thread")):
    main = _threads.get_ident()
    def importing():
        import sys
        frame = sys._current_frames().get(main)
        while frame is not None and "importlib" not in frame.f_code.co_filename:
            frame = frame.f_back
        return frame is not None
    def run():
        import time
        for _ in range({patience}):
            if not importing():
                break
            time.sleep(0.05)
        import json, os
        try:
            from aiometrics.launch import attached
            outcome = {{"said": eval(call, {{"attached": attached}})}}
        except BaseException as error:
            outcome = {{"error": str(error) or repr(error)}}
        with open(result + ".part", "w", encoding="utf-8") as file:
            json.dump(outcome, file)
        os.replace(result + ".part", result)
    try:
        __import__({builtins!r}).mkdir(result + ".begun")
    except FileExistsError:
        return
    _threads.start_new_thread(run, ())
_aiometrics({call!r}, {result!r})
del _aiometrics
"""
_INTERVAL_SECONDS = 0.05
#: An interpreter that is starting can lose a script, which is then given to it again.
_AGAIN_SECONDS = 1.0
#: How often the thread looks whether the main thread still imports, which two threads should not do
#: at one time: if each waits for a module of the other's, one gets a module that is half imported.
_PATIENCE = 100
#: An interpreter is ready for scripts this soon after its start.
_STARTS_SECONDS = 2.0


class AttachError(Exception):
    """A process cannot be attached to; the message says why, and what to do."""


def attach(pid: int, options: Mapping[str, str], *, timeout: float) -> str:
    """Start an exporter with these ``AIOMETRICS_*`` variables; return what to tell the user.

    Raises :class:`AttachError`.
    """
    return _call(pid, f"attached.attach({dict(options)!r})", timeout)


def detach(pid: int, *, timeout: float) -> str:
    """Stop the exporter that was attached; return what to tell the user.

    Raises :class:`AttachError`.
    """
    return _call(pid, "attached.detach()", timeout)


def _call(pid: int, call: str, timeout: float) -> str:
    if sys.version_info < (3, 14):
        raise AttachError(
            "attaching needs Python 3.14 or newer, here and in the process, because only that runs "
            f"scripts for others, and this is Python {sys.version_info[0]}.{sys.version_info[1]}: "
            "start the program by 'aiometrics run' instead"
        )
    directory = Path(tempfile.mkdtemp(prefix="aiometrics-attach-"))
    script, result = directory / "script.py", directory / "result.json"
    program = _SCRIPT.format(call=call, result=str(result), builtins=os.name, patience=_PATIENCE)
    script.write_text(program, encoding="utf-8")
    try:
        _let_in(pid, directory, script)
        begun = _wait_for(pid, script, Path(f"{result}.begun"), timeout)
    except BaseException:
        _remove(directory)
        raise
    if not begun:
        raise AttachError(
            f"process {pid} has run no Python code in its main thread for {timeout:g} s. It "
            f"will run {script} when it does; remove {directory} afterwards"
        )
    deadline = time.monotonic() + timeout
    while not result.exists():
        if time.monotonic() > deadline:
            raise AttachError(
                f"process {pid} has begun to run {script}, but has not finished within "
                f"{timeout:g} s; remove {directory} once it has"
            )
        time.sleep(_INTERVAL_SECONDS)
    outcome = json.loads(result.read_text(encoding="utf-8"))
    _remove(directory)
    if "error" in outcome:
        raise AttachError(f"process {pid}: {outcome['error']}")
    return str(outcome["said"])


def _wait_for(pid: int, script: Path, begun: Path, timeout: float) -> bool:
    """Have the process run the script, and return whether it has begun to."""
    deadline = time.monotonic() + timeout
    while not begun.exists():
        now = time.monotonic()
        if now > deadline:
            return False
        _run_in(pid, script)
        while not begun.exists() and time.monotonic() < now + _AGAIN_SECONDS:
            time.sleep(_INTERVAL_SECONDS)
    return True


def _let_in(pid: int, *paths: Path) -> None:
    """Let the user of the process read and write these, which are ours alone."""
    try:
        owner = Path(f"/proc/{pid}").stat()
    except OSError:
        raise AttachError(f"there is no process {pid}") from None
    if owner.st_uid != os.geteuid() == 0:
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid)


def _run_in(pid: int, script: Path) -> None:
    """Have the process run the script; one that has just been started is tried again."""
    if sys.version_info < (3, 14):
        return
    deadline = time.monotonic() + _STARTS_SECONDS
    while True:
        try:
            sys.remote_exec(pid, str(script))
        except PermissionError:
            raise AttachError(
                f"this user may not trace process {pid}: be its user, and root or have "
                "CAP_SYS_PTRACE where /proc/sys/kernel/yama/ptrace_scope is not 0"
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            if time.monotonic() > deadline:
                raise _refused(pid, error) from None
            time.sleep(_INTERVAL_SECONDS)
        else:
            return


def _refused(pid: int, error: Exception) -> AttachError:
    return AttachError(
        f"process {pid} cannot be attached to: {error}. It must be Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}, started without "
        "PYTHON_DISABLE_REMOTE_DEBUG and -X disable-remote-debug, as this command must be"
    )


def _remove(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    directory.rmdir()
