"""The one writer: whole or not at all, mode kept, links followed only to where they point, devices refused."""

import os
import stat

import pytest

from dojang.base.errors import FileError, UsageError
from dojang.base.writing import replace_bytes, writing


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def interrupted():
        with writing(target, force=True) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_mode_and_link_are_kept(tmp_path):
    target, link = tmp_path / "a.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    replace_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_device_is_refused(tmp_path):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    with pytest.raises(UsageError, match="device, a pipe"):
        replace_bytes(fifo, b"x")
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_file_made_meanwhile_is_kept(tmp_path):
    target = tmp_path / "a.bin"

    def overtaken():
        with writing(target) as temporary:
            temporary.write_bytes(b"mine")
            target.write_bytes(b"theirs")

    with pytest.raises(UsageError, match="another process"):
        overtaken()
    assert target.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("name", ["no/such/folder/a.bin", "a\0b"])
def test_names_that_cannot_be_written(tmp_path, name):
    with pytest.raises((UsageError, FileError)):
        replace_bytes(f"{tmp_path}/{name}", b"x")
