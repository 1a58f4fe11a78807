"""Processes that tests start and end."""

import os
import subprocess
import sys

from conftest import REPOSITORY

# Only to end a process that hangs; a busy machine may take minutes.
TIMEOUT = 600


def start(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
             **environment})


def end(process, status=0):
    """(stdout, stderr) of a process that must end with `status`."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == status, output + errors
    return output, errors
