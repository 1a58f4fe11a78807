"""What a run was made with: the version of this code, the machine, the packages, the command."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time

import tensorflow.compat.v1 as tf

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = ("keras", "numpy", "opencv-python-headless", "pandas", "rasterio", "tensorboard")
# Variables that change what TensorFlow computes with.
VARIABLES = ("CUDA_", "OMP_", "TF_")


def describe_environment():
    """Plain values for JSON."""
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join([sys.executable, *sys.argv]),
            "folder": os.getcwd(),
            "code": code_version(),
            "python": platform.python_version(),
            "packages": {"tensorflow": tf.__version__} | _installed(PACKAGES),
            "host": platform.node(),
            "platform": platform.platform(),
            **machine(),
            "variables": {name: value for name, value in sorted(os.environ.items())
                          if name.startswith(VARIABLES)}}


def machine():
    """What tells machines of another speed apart."""
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "gpus": _gpu_names()}


def code_version(folder=REPOSITORY):
    """{'commit': hash, 'dirty': whether tracked files differ from it}; None, None without git.

    A folder unpacked somewhere below another project's repository has no version of its own.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or os.path.realpath(top) != os.path.realpath(folder):
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(folder, "rev-parse", "--verify", "HEAD"),
            "dirty": None if changes is None else bool(changes)}


def _git(folder, *arguments):
    """What git answers, without the newline; None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True,
                              timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed(names):
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file
                     if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _gpu_names():
    return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")]
