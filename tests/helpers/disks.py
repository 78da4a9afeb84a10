"""Disks that are full or may not be written to."""

import contextlib
import errno
import os
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size, *, may_write=True):
    """A file system of a few bytes mounted on a folder; skips where mounting is not possible."""
    folder.mkdir(exist_ok=True)
    options = f"size={size},mode=0777" + ("" if may_write else ",ro")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def full_at(monkeypatch, number, module=os, name="fsync"):
    """Have the ``number``-th call of a function of a module say that the disk is full."""
    real = getattr(module, name)
    calls = []

    def full(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, full)
    return calls
