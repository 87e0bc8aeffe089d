"""Run against the installed wheel, outside the checkout: the modules come from the environment, import cheaply, and train."""
import importlib
import pathlib
import statistics
import subprocess
import sys
import time

METHOD = "data elbo mixture collapse resnet patchgan training figures".split()
imports = "; ".join(f"import vae_tutorial.{name}" for name in METHOD)


def seconds(code):
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


seconds(imports)  # warms the disk
pairs = [(seconds("import torch"), seconds(imports)) for _ in range(5)]
ratio = statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs)
print(f"importing the method's modules costs {ratio:.2f} x import torch")  # said, not asserted: machines differ and are shared
loaded = subprocess.run([sys.executable, "-c", f"{imports}; import sys; print([m for m in ('matplotlib', 'torchvision', 'PIL') if m in sys.modules])"],
                        check=True, capture_output=True, text=True).stdout.strip()
assert loaded == "[]", f"imported too early: {loaded}"

for name in METHOD: module = importlib.import_module(f"vae_tutorial.{name}")
root = pathlib.Path(module.__file__).parent
assert "site-packages" in str(root), root
assert (root / "py.typed").exists()

from vae_tutorial.data import SyntheticFaces
from vae_tutorial.training import TrainConfig, train

images = [SyntheticFaces(48, image_size=16, cache=False)[i][0] for i in range(48)]
for method in ("standard", "proposed"):
    config = TrainConfig(method=method, image_size=16, width=8, latent_dim=16, blocks=2, batch_size=8, epochs=None, steps=5, device="cpu")
    result = train(config, images)
    assert result.step == 5 and result.history[-1]["train/loss"] > 0
print("smoke test: the wheel trains both methods")
