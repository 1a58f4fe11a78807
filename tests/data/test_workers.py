import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from utils.data.workers import map_in_processes


def square(job, offset):
    if job == "fail":
        raise ValueError("job.png: no good")
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return job * job + offset


@pytest.mark.parametrize("processes", [1, 2, 5, 40])
def test_every_job_is_done_once(processes):
    with closing(map_in_processes(square, range(11), processes, (100,))) as results:
        assert sorted(results) == [(job, job * job + 100) for job in range(11)]


def test_a_worker_s_error_is_raised_here():
    with pytest.raises(ValueError, match="job.png: no good"):
        list(map_in_processes(square, [1, "fail", 3], 2, (0,)))


def test_a_killed_worker_is_noticed():
    with pytest.raises(MemoryError, match="fewer --processes"):
        list(map_in_processes(square, [1, "die", 3], 2, (0,)))


OPENCV = """
import cv2, numpy as np
from utils.data.workers import map_in_processes
cv2.setNumThreads(4)
image = np.ones((1000, 1000, 3), np.uint8)
def enlarge(job=0):
    return int(cv2.resize(image, (3000, 3000)).max())
for _ in range(5):
    enlarge()
print(sum(result for _, result in map_in_processes(enlarge, range(6), 3, ())), cv2.getNumThreads())
"""


def test_workers_do_not_wait_for_threads_that_opencv_had_before_the_fork(repository):
    result = subprocess.run([sys.executable, "-c", OPENCV], cwd=repository, capture_output=True,
                            text=True, timeout=60)
    assert result.stdout == "6 4\n", result.stderr


SCRIPT = """
import os, signal, sys, time
from utils.data.workers import map_in_processes
def work(job):
    time.sleep(0.01)
    return os.getpid()
seen = set()
for _, process in map_in_processes(work, range(100000), 3, ()):
    seen.add(process)
    if len(seen) == 3:
        print(*seen, flush=True)
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks in /proc")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_no_worker_outlives_its_parent(repository, name):
    result = subprocess.run([sys.executable, "-c", SCRIPT, name], cwd=repository,
                            capture_output=True, text=True, timeout=60)
    workers = result.stdout.split()
    assert len(workers) == 3
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
