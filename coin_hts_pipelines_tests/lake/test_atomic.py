import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from coin_hts_pipelines import PermanentError, TransientError
from coin_hts_pipelines.lake import locked, write_atomically
from coin_hts_pipelines_tests.lake.helpers import fill_the_disk, names_in


def raising(error):
    def write(stream):
        stream.write(b"half")
        raise error

    return write


def test_writes_into_folders_it_makes_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    for content in (b"old and long", b"new"):
        write_atomically(path, lambda stream, content=content: stream.write(content))
        assert path.read_bytes() == content
    assert names_in(path.parent) == ["file"]


def test_a_written_file_follows_the_umask(tmp_path):
    write_atomically(tmp_path / "file", lambda stream: None)
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises((ValueError, KeyboardInterrupt, TransientError)):
        write_atomically(path, raising(error))
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_a_full_disk_is_transient(tmp_path):
    with pytest.raises(TransientError, match=r"file: No space left on device; free some space"):
        write_atomically(tmp_path / "file", fill_the_disk)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EIO, TransientError),
        (errno.EDQUOT, TransientError),
        (errno.EACCES, PermanentError),
        (errno.EROFS, PermanentError),
    ],
)
def test_errors_of_the_system_are_classed(tmp_path, code, kind):
    with pytest.raises(kind, match=os.strerror(code)):
        write_atomically(tmp_path / "file", raising(OSError(code, "x")))


def test_errors_of_the_callback_that_are_no_write_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "file", lambda _: (tmp_path / "missing").read_bytes())


def test_a_file_in_the_way_of_a_folder_is_permanent(tmp_path):
    (tmp_path / "a").touch()
    for path in (tmp_path / "a" / "file", tmp_path / "a" / "b" / "file"):
        with pytest.raises(PermanentError, match="a part of the path is a file"):
            write_atomically(path, lambda stream: None)
        with pytest.raises(PermanentError, match="a part of the path is a file"), locked(path):
            pass


def test_a_folder_in_the_place_of_the_file_is_permanent(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(PermanentError, match="the path is a folder"):
        write_atomically(tmp_path / "file", lambda stream: None)
    assert names_in(tmp_path) == ["file"]


def test_the_lock_excludes_threads(tmp_path):
    path = tmp_path / "counter"
    path.write_text("0")

    def count():
        for _ in range(100):
            with locked(path):
                value = int(path.read_text())
                write_atomically(path, lambda stream, value=value: stream.write(str(value + 1).encode()))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "400"
    assert names_in(tmp_path) == ["counter", "counter.lock"]


COUNT = """
import sys
from pathlib import Path
from coin_hts_pipelines.lake.atomic import locked, write_atomically
path = Path(sys.argv[1])
for _ in range(150):
    with locked(path):
        value = int(path.read_text())
        write_atomically(path, lambda stream: stream.write(str(value + 1).encode()))
"""


def test_the_lock_excludes_processes(tmp_path):
    path = tmp_path / "counter"
    path.write_text("0")
    writers = [subprocess.Popen([sys.executable, "-c", COUNT, str(path)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert path.read_text() == "450"


HOLD = """
import sys, time
from pathlib import Path
from coin_hts_pipelines.lake.atomic import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path / "x"):
        assert (tmp_path / "x.lock").exists()


def test_the_lock_is_released_by_an_exception(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), locked(tmp_path / "x"):
            raise ValueError("inside")
