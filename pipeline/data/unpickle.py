"""A pickled dict of arrays as npz, without running what the pickle asks for.

A pickle is a program. It is read with nothing to call but inert stand-ins for numpy's array
constructors, in a child process (`python -m pipeline.data.unpickle`) with limited memory and time;
numpy itself only ever sees plain bytes, a checked number format and a shape.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError

CPU_S = 60
MEMORY = 1 << 30  # bytes beside four times the size of the file


def to_npz(source: Path, target: Path, cpu_s: int = CPU_S) -> None:
    """Writes the arrays of the pickled dict `source` to the npz file `target`.

    Lists of integers or text count as arrays. Raises UserError.
    """
    files = [str(source.resolve()), str(target.resolve())]
    child = subprocess.run(
        [sys.executable, "-m", "pipeline.data.unpickle", *files, str(cpu_s)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads would use up the memory
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    lines = child.stderr.decode(errors="replace").splitlines()
    if child.returncode == 2 and lines:
        raise UserError(f"{source}: {lines[-1]}: save the arrays with numpy.savez")
    if child.returncode:
        raise UserError(
            f"{source}: a pickle must be read within {cpu_s} s and its share of memory, but the"
            f" reader ended with exit code {child.returncode}: save the arrays with numpy.savez"
        )


@dataclass
class _Dtype:
    """What the pickle says to numpy.dtype."""

    code: Any
    align: Any = False
    copy: Any = True
    order: Any = "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def to_numpy(self) -> np.dtype:
        if not re.fullmatch(r"[<>|=][biufU]\d{1,4}", f"{self.order:.9}{self.code:.9}"):
            raise UserError(f"an array must hold numbers or text, but got type {self.code:.9}")
        known: np.dtype = np.dtype(self.order + self.code)
        return known


class _Array:
    """What the pickle says to numpy.ndarray: (version, shape, dtype, Fortran order, content)."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self) -> np.ndarray:
        _, shape, dtype, fortran, content = self.state
        flat = np.frombuffer(_bytes(content), dtype.to_numpy())
        return flat.reshape(shape, order="F" if fortran else "C")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order == "F", content)
    return array


def _scalar(dtype: Any, content: Any) -> Any:
    return np.frombuffer(_bytes(content), dtype.to_numpy())[0].item()


def _bytes(content: Any, encoding: Any = "latin1") -> Any:
    """Bytes as they are, or from the text as which protocols 0 to 2 write them."""
    if encoding != "latin1":
        raise UserError("bytes must be encoded as numpy does, in latin1, but are in another way")
    return content.encode("latin1") if isinstance(content, str) else content


_STAND_INS = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in _STAND_INS:
            raise UserError(f"a pickle may name numpy's arrays alone, but names {full!r:.80}")
        return _STAND_INS[full]


def _convert(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        content = _Unpickler(file, encoding="latin1").load()  # latin1: arrays of Python 2
    if type(content) is not dict or not all(type(name) is str for name in content):
        raise UserError(f"a pickle must hold a dict of arrays, but got {type(content).__name__}")
    with zipfile.ZipFile(target, "w") as archive:
        for name, value in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _to_numpy(value), allow_pickle=False)


def _to_numpy(value: Any) -> np.ndarray:
    if isinstance(value, _Array):
        return value.to_numpy()
    if type(value) is list and all(type(item) in (int, str) for item in value):
        return np.array(value)
    raise UserError(f"each value of the dict must be an array, but got {type(value).__name__}")


def _set_limits(memory: int, cpu_s: int) -> None:
    import resource

    for which, wanted in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (bound, bound))


def _main(source: Path, target: Path, cpu_s: int) -> int:
    try:
        _set_limits(MEMORY + 4 * source.stat().st_size, cpu_s)
        _convert(source, target)
    except UserError as error:
        print(error, file=sys.stderr)
    except MemoryError:
        print("a pickle may not need more memory than its size justifies", file=sys.stderr)
    except Exception as error:  # a broken or hostile pickle can provoke any
        print(f"must be a pickle in good order, but got {type(error).__name__}", file=sys.stderr)
    else:
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
