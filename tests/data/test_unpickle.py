"""A pickle gives its arrays, whoever wrote it, and can do nothing else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import unpickle
from pipeline.errors import UserError

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1])


def converted(tmp_path: Path, content: bytes) -> dict[str, np.ndarray]:
    source, target = tmp_path / "data.pkl", tmp_path / "data.npz"
    source.write_bytes(content)
    unpickle.to_npz(source, target)
    with np.load(target, allow_pickle=False) as archive:
        return dict(archive)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        converted(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "data.pkl"))
    assert "numpy.savez" in message
    return message


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_arrays_back(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "data": IMAGES,
        "test_images": np.asfortranarray(IMAGES[::-1]),  # another memory layout
        "labels": LABELS.astype(">i2"),  # another byte order
        "test_labels": np.array(["boot", "bag", "coat"]),
    }
    result = converted(tmp_path, pickle.dumps(arrays, protocol))
    assert result.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)


def test_numpy_1_and_lists_of_labels_are_read(tmp_path: Path) -> None:
    content = pickle.dumps({"data": IMAGES, "labels": [2, 0, np.int64(1)]}, protocol=2)
    result = converted(tmp_path, content.replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(result["data"], IMAGES)
    np.testing.assert_array_equal(result["labels"], LABELS)


def test_python_2_pickles_are_read(tmp_path: Path) -> None:
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\nI2\nI2\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x00\\x7f\\x80\\xff'\ntb"
    )
    result = converted(tmp_path, b"(dS'data'\n" + array + b"s.")
    assert result["data"].dtype == np.uint8
    np.testing.assert_array_equal(result["data"], [[[0, 127], [128, 255]]])


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize(
    "function",
    [os.system, eval, getattr, np.load, np.memmap],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("protocol", [0, 4])
def test_calls_are_refused_by_name(tmp_path: Path, function: object, protocol: int) -> None:
    message = refusal(tmp_path, pickle.dumps({"data": Call(function, "x")}, protocol))
    assert "may name numpy's arrays alone, but names" in message


def test_nothing_is_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    command = f"touch {witness}"
    for hidden in (Call(os.system, command), [Call(exec, f"open({str(witness)!r}, 'w')")]):
        refusal(tmp_path, pickle.dumps({"data": IMAGES, "labels": hidden}))
    assert not witness.exists()


NESTED_TUPLE_AS_KEY = b"}" + b")" + b"\x85" * 500_000 + b"Ns."
HUGE = (1 << 40).to_bytes(8, "little")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle at all",
        b"\x80\xff.",  # a protocol that does not exist
        pickle.dumps({"data": IMAGES})[:-20],
        b"\x80\x04\x95" + HUGE + b"}.",  # a frame of 1 TB
        b"\x80\x04\x8e" + HUGE + b".",  # bytes of 1 TB
        b"\x80\x05\x96" + HUGE + b".",  # a bytearray of 1 TB
        b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo of 4 billion entries
        b"\x80\x04\x8b\xff\xff\xff\x7f.",  # an integer of 2 GB
        b"]" * 500_000 + b"a" * 499_999 + b".",  # a list nested half a million deep
        NESTED_TUPLE_AS_KEY,  # hashing it would overflow the stack
        b"\x80\x02\x82\x01.",  # the extension registry
        b"Pname\n.",  # a persistent id
    ],
    ids=lambda content: repr(content[:12]),
)
def test_broken_and_hostile_streams_end_in_one_line(tmp_path: Path, content: bytes) -> None:
    refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array([{}, None], dtype=object), "must hold numbers or text"),
        (np.zeros(2, [("a", "u1"), ("b", "O")]), "must hold numbers or text"),
        ({"nested": 1}, "must be an array, but got dict"),
        ([1.5], "must be an array, but got list"),
    ],
)
def test_only_plain_arrays_are_taken(tmp_path: Path, value: object, reason: str) -> None:
    assert reason in refusal(tmp_path, pickle.dumps({"data": IMAGES, "labels": value}))


def test_only_a_dict_is_taken(tmp_path: Path) -> None:
    assert "a dict of arrays, but got list" in refusal(tmp_path, pickle.dumps([IMAGES]))


def test_an_array_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"data": IMAGES}, protocol=2)
    shape = b"K\x03K\x04K\x05\x87"
    assert content.count(shape) == 1
    refusal(tmp_path, content.replace(shape, b"J\xff\xff\xff\x7fK\x04K\x05\x87"))


def test_memory_is_limited(tmp_path: Path) -> None:
    """Room for 2 GB of bytes could be had here, and only the missing bytes would be noticed."""
    content = b"\x80\x04\x8e" + (1 << 31).to_bytes(8, "little") + b"."
    assert "more memory than its size justifies" in refusal(tmp_path, content)


def test_time_is_limited(tmp_path: Path) -> None:
    """A key of pairs of pairs, each half the same object: hashing it takes 2**100 steps."""
    source = tmp_path / "data.pkl"
    source.write_bytes(b"\x80\x02}" + b")" + b"2\x86" * 100 + b"Ns.")
    with pytest.raises(UserError, match="within 1 s"):
        unpickle.to_npz(source, tmp_path / "data.npz", cpu_s=1)
