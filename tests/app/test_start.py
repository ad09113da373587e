from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "llvmlite", "PIL", "safetensors", "onnxruntime", "sklearn", "asyncio", "multiprocessing")


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stdout.flush()\nprint('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import dojang; dir(dojang)",
        "from dojang.app.cli import main; assert main(['--help']) == 0",
        "from dojang.app.cli import main; assert main(['count', 'alexnet']) == 0",
        "from dojang.app.cli import main; assert main(['count', 'alexnet', '--json']) == 0",
        "from dojang.app.cli import main; assert main(['count', 'digits-cnn']) == 0",
        "from dojang.app.cli import main; assert main(['nonsense']) == 2",
        "import dojang; dojang.count('resnet50'); dojang.Conv",
    ],
)
def test_starts_without_heavy_imports(code: str) -> None:
    loaded = modules_after(code)
    assert not loaded & set(HEAVY)


def test_heavy_import_would_be_seen() -> None:
    assert "numpy" in modules_after("import numpy")


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "dojang", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dojang 0.")
