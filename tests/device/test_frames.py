"""Frames: what was sent comes back, and nothing else is taken for one."""

from __future__ import annotations

import io

import numpy as np
import pytest

from hwsmpq.device import frames
from hwsmpq.errors import HwsmpqError

DTYPES = sorted(frames.DTYPES)


def test_a_frame_comes_back():
    stream = io.BytesIO(frames.encode({"a": [1, None, "ü"]}, b"body") + frames.encode({}))
    assert frames.read(stream) == ({"a": [1, None, "ü"]}, b"body")
    assert frames.read(stream) == ({}, b"")
    with pytest.raises(frames.Closed):
        frames.read(stream)


@pytest.mark.parametrize("seed", range(5))
def test_a_frame_that_is_cut_anywhere_is_none(seed):
    whole = frames.encode({"op": "infer", "n": list(range(50))}, bytes(100))
    for n in np.random.default_rng(seed).integers(0, len(whole), 20):
        with pytest.raises(frames.Closed):
            frames.read(io.BytesIO(whole[:n]))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"Welcome to Ubuntu 20.04 LTS", "no frame"),
        (frames.HEAD.pack(b"HWQ\x02", 2, 0) + b"{}", "no frame"),
        (frames.HEAD.pack(frames.MAGIC, frames.LARGEST_OBJECT + 1, 0), "too large"),
        (frames.HEAD.pack(frames.MAGIC, 2, frames.LARGEST_BODY + 1) + b"{}", "too large"),
        (frames.HEAD.pack(frames.MAGIC, 2, 0) + b"{[", "no JSON"),
        (frames.HEAD.pack(frames.MAGIC, 2, 0) + b"[]", "no JSON object"),
        (frames.HEAD.pack(frames.MAGIC, 2, 0) + b"\xff\xff", "no JSON"),
    ],
)
def test_what_is_no_frame_is_refused(data, word):
    with pytest.raises(HwsmpqError, match=word):
        frames.read(io.BytesIO(data))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (2, 3, 4)])
def test_arrays_come_back(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    (found,) = frames.unpack_arrays(*frames.pack_arrays([array]))
    assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)
    found[...] = 1  # it is the caller's


def test_arrays_in_any_layout_come_back():
    array = np.arange(24, dtype=">f4").reshape(4, 6)[::2, ::-1].T
    (found,) = frames.unpack_arrays(*frames.pack_arrays([array]))
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("told", "body"),
    [
        ([{"dtype": "float32", "shape": [2]}], bytes(4)), ([{"dtype": "float32", "shape": [1]}], bytes(8)),
        ([{"dtype": "object", "shape": [1]}], bytes(8)), ([{"dtype": "float32", "shape": [-1]}], bytes(4)),
    ],
)
def test_arrays_of_other_sizes_or_types_are_refused(told, body):
    with pytest.raises(HwsmpqError):
        frames.unpack_arrays(told, body)


def test_objects_are_not_sent():
    with pytest.raises(HwsmpqError, match="object"):
        frames.pack_arrays([np.array([None])])


def test_files_are_checked(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"")
    told, body = frames.pack_files([tmp_path / "a", tmp_path / "b"])
    assert frames.unpack_files(told, body) == {"a": b"one", "b": b""}
    with pytest.raises(HwsmpqError, match="damaged"):
        frames.unpack_files(told, b"onf")
    for name in ("../a", "/etc/passwd", "..", ""):
        with pytest.raises(HwsmpqError, match="plain name"):
            frames.unpack_files([{**told[0], "name": name}], b"one")
