"""Rooms import downwards only; importing the package does nothing; the public names are there."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stadapter

SOURCE = Path(stadapter.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

LEVELS: tuple[tuple[str, ...], ...] = (
    ("_torchvision", "atomic", "device", "interrupt", "ops", "progress", "recompute", "workers"),
    ("backbones", "data", "ranks", "recipes"),
    ("methods", "prepare", "tasks"),
    ("checkpoint", "metrics"),
    ("hub",),
    ("model", "run"),
    ("evaluate", "official"),
    ("predict", "results", "train"),
    ("report", "tables"),
    ("check", "compare", "recipe", "visualize"),
    ("info", "plan"),
    ("demo", "study"),
    ("cli",),
    ("__main__",),
)
"""A room imports rooms of lower levels, never its neighbours."""
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

OWNED = {
    "argparse": {"cli/main.py", "cli/recipe_flags.py"},
    "jsonargparse": {"cli/flags.py", "cli/recipe_flags.py"},
    "accelerate": {"ranks.py", "train/log.py"},
    "av": {
        "check/cache.py",
        "check/decode.py",
        "data/duration.py",
        "data/video.py",
        "data/twins.py",
        "prepare/mp4.py",
        "prepare/source.py",
        "prepare/transcode.py",
        "visualize/animation.py",
    },
    "PIL": {
        "report/frames.py",
        "report/plots.py",
        "visualize/animation.py",
        "visualize/page.py",
        "visualize/paint.py",
        "visualize/picture.py",
        "visualize/sheet.py",
    },
    "huggingface_hub": {"hub.py"},
}
"""Package -> the only files that may import it."""
OPTIONAL = {
    "matplotlib": {"study/figures.py"},
    "peft": {"methods/peft.py"},
    "pyarrow": {"data/annotations/formats/parquet.py", "study/results.py"},
    "transformers": {"backbones/transformers.py"},
    "triton": {"ops/triton_kernels.py"},
}
"""Extra -> the only files that may import it, and not when they are imported themselves."""
KERNELS = "ops/triton_kernels.py"
"""Triton wants its language among a kernel's globals: this file needs the extra on import,
and is itself imported at first use only."""


def name_of(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """(dotted module, whether importing the file imports it) of each import statement."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    late: set[int] = set()
    for node in ast.walk(tree):
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if later or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            late |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in late
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)} has a relative import"
            assert node.module
            yield node.module, id(node) not in late
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) not in late


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":  # public names, at first use
        assert not [m for m, now in imports(file) if now and is_in(m, "stadapter")]
        return
    assert room in LEVEL, f"room {room!r} has no level yet: say in LEVELS what it may import"
    for module, _ in imports(file):
        parts = module.split(".")
        if parts[0] != "stadapter" or len(parts) < 2 or parts[1] in (room, "__version__"):
            continue
        assert LEVEL[parts[1]] < LEVEL[room], f"{name_of(file)} imports {module}"


def test_methods_never_meet() -> None:
    """A method's file imports no other method's."""
    shared = {"method", "heads", "bottleneck", "attention", "positions", "anatomy", "linears"}
    names = {f.stem for f in (SOURCE / "methods").glob("*.py")} - shared - {"__init__"}
    assert len(names) >= 3
    for name in names:
        for module, _ in imports(SOURCE / "methods" / f"{name}.py"):
            for other in names - {name}:
                assert not is_in(module, f"stadapter.methods.{other}")


@pytest.mark.parametrize("package", [*OWNED, *OPTIONAL])
def test_a_package_is_imported_by_its_owner_only(package: str) -> None:
    owners = OWNED.get(package) or OPTIONAL[package]
    for file in FILES:
        for module, at_import in imports(file):
            if is_in(module, package):
                assert name_of(file) in owners, f"{name_of(file)} imports {module}"
                if package in OPTIONAL and name_of(file) != KERNELS:
                    assert not at_import, f"{name_of(file)} imports the extra {package} at its top"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, stadapter; heavy = {'torch', 'numpy', 'av', 'timm', 'torchvision', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_importing_every_module_prints_nothing_and_needs_no_extra() -> None:
    """What a user without extras sees, and `stadapter --help` in a second."""
    files = [f for f in FILES if name_of(f) != KERNELS]
    modules = [".".join(f.relative_to(SOURCE.parent).with_suffix("").parts) for f in files]
    modules = [m.removesuffix(".__init__") for m in modules]
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "extras = {'transformers', 'peft', 'tensorboard', 'pyarrow', 'wandb', 'mlflow'}\n"
        "extras |= {'jsonargparse', 'matplotlib', 'triton'}\n"
        "print(sorted(extras & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_public_names() -> None:
    assert sorted(stadapter.__all__) == stadapter.__all__
    assert dir(stadapter) == stadapter.__all__
    for name in stadapter.__all__:
        thing = getattr(stadapter, name)
        if name != "__version__":
            assert thing.__module__.startswith("stadapter.")
            assert thing.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stadapter.nothing
