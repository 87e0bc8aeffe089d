"""How to train your VAE: what a user needs, each imported when it is first asked for.

>>> import vae_tutorial as vt
>>> result = vt.train(vt.TrainConfig(steps=100))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "train": "loop",
    "TrainConfig": "config",
    "PRESETS": "config",
    "load": "checkpoint",
    "generate": "sampling",
    "encode": "use",
    "decode": "use",
    "reconstruct": "use",
    "interpolate": "use",
    "edit": "use",
    "open_dataset": "images.datasets",
    "load_batch": "images.batches",
    "ResidualVAE": "resnet",
    "PatchDiscriminator": "patchgan",
    "reconstructions": "figures",
    "measure": "measurements",
}
__all__ = [
    "PRESETS",
    "PatchDiscriminator",
    "ResidualVAE",
    "TrainConfig",
    "decode",
    "edit",
    "encode",
    "generate",
    "interpolate",
    "load",
    "load_batch",
    "measure",
    "open_dataset",
    "reconstruct",
    "reconstructions",
    "train",
]

if TYPE_CHECKING:
    from .checkpoint import load
    from .config import PRESETS, TrainConfig
    from .figures import reconstructions
    from .images.batches import load_batch
    from .images.datasets import open_dataset
    from .loop import train
    from .measurements import measure
    from .patchgan import PatchDiscriminator
    from .resnet import ResidualVAE
    from .sampling import generate
    from .use import decode, edit, encode, interpolate, reconstruct


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
