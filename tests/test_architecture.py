"""The rules of docs/architecture.md: who may import whom, and how large things may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("model", "data_pipeline", "orchestrator", "launch")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

ONLY_IN = {
    "torchtitan": ("model/recompute.py",),
    "fla": ("model/kernels/delta_rule/backends.py",),
    "triton": ("model/kernels/",),
    "s3fs": ("data_pipeline/store/s3.py",),
    "aiobotocore": ("data_pipeline/store/s3",),
    "botocore": ("data_pipeline/store/s3",),
    "omegaconf": ("launch/config/",),
    "ray": ("orchestrator/ray_backend/", "launch/runs/connection.py"),
    "typer": ("launch/cli.py", "launch/commands/"),
    "rich": ("launch/show/", "launch/commands/", "launch/demo/"),
}
"""Package → the only places that import it."""

ORCHESTRATOR = ("orchestrator.config", "orchestrator.messages", "orchestrator.codec", "orchestrator.errors", "orchestrator.records")
"""What all of its rooms have in common."""
LAUNCH = ("launch.errors", "launch.status", "launch.units")
"""What all rooms of launch/ have in common."""
LAUNCH_ROOMS = tuple(f"launch.{room}" for room in ("config", "runs", "weights", "machine", "show", "demo"))
"""What commands call."""
MAY_IMPORT = {
    "model/": ("model",),
    "data_pipeline/": ("data_pipeline",),
    "orchestrator/config.py": (
        "orchestrator.codec",
        "model.config",
        "model.optim",
        "model.costs",
        "data_pipeline.config",
    ),
    "orchestrator/codec.py": (),
    "orchestrator/errors.py": (),
    "orchestrator/messages.py": ("orchestrator.codec",),
    "orchestrator/verify.py": ORCHESTRATOR,
    "orchestrator/records/": (*ORCHESTRATOR, "orchestrator.control.state", "model.config", "model.costs", "data_pipeline.store.protocol"),
    "orchestrator/control/": ("orchestrator.control", *ORCHESTRATOR, "data_pipeline.store.protocol"),
    "orchestrator/node/": ("orchestrator.node", *ORCHESTRATOR, "data_pipeline.config", "data_pipeline.store"),
    "orchestrator/ray_backend/": ("orchestrator.ray_backend", "orchestrator.node", "orchestrator.control", *ORCHESTRATOR, "data_pipeline"),
    "orchestrator/worker/": ("orchestrator.worker", "orchestrator.verify", *ORCHESTRATOR, "model", "data_pipeline"),
    "launch/errors.py": (),
    "launch/status.py": (),
    "launch/units.py": (),
    "launch/servers/": (),
    "launch/config/": ("launch.config", *LAUNCH, "orchestrator.config", "model", "data_pipeline.config"),
    "launch/runs/": ("launch.runs", "launch.config", *LAUNCH, "orchestrator", "data_pipeline"),
    "launch/weights/": ("launch.weights", "launch.runs.record", *LAUNCH, "orchestrator", "model", "data_pipeline"),
    "launch/machine/": ("launch.machine", "launch.runs.connection", *LAUNCH, "model", "data_pipeline"),
    "launch/show/": ("launch.show", "launch.machine.checks", *LAUNCH),
    "launch/demo/": (
        "launch.demo",
        "launch.config",
        "launch.runs",
        "launch.show",
        "launch.servers",
        *LAUNCH,
        "orchestrator",
        "data_pipeline",
    ),
    "launch/train.py": ("launch.config", "launch.runs.record", *LAUNCH, "orchestrator", "model", "data_pipeline"),
    "launch/commands/": ("launch.commands", *LAUNCH_ROOMS, *LAUNCH, "orchestrator", "model", "data_pipeline"),
    "launch/cli.py": ("launch.commands", *LAUNCH, "orchestrator", "data_pipeline"),
}
"""Place → what it may import of this project."""

NO_TORCH = (
    "orchestrator/control/",
    "orchestrator/node/",
    "orchestrator/ray_backend/",
    "orchestrator/records/",
    "orchestrator/config.py",
    "orchestrator/codec.py",
    "orchestrator/errors.py",
    "orchestrator/messages.py",
    "orchestrator/verify.py",
    "model/config.py",
    "model/presets.py",
    "model/costs/",
    "model/optim/groups.py",
    "model/optim/schedule.py",
    "data_pipeline/config.py",
    "data_pipeline/order/",
    "data_pipeline/store/",
    "launch/config/",
    "launch/runs/",
    "launch/show/",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> set[str]:
    """Dotted names of every module that the file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import; this project writes them out"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_foreign_package_enters_through_its_one_door(path: Path):
    for package, doors in ONLY_IN.items():
        if any(within(module, package) for module in imports_of(path)):
            assert name_of(path).startswith(doors), f"{name_of(path)} imports {package}; only {', '.join(doors)} may"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_rooms_import_only_their_neighbours(path: Path):
    rules = [allowed for place, allowed in MAY_IMPORT.items() if name_of(path).startswith(place)]
    if path.name == "__init__.py":
        return
    assert len(rules) == 1, f"{name_of(path)} belongs to no room of the architecture"
    for module in imports_of(path):
        if module.split(".")[0] in ROOMS and not any(within(module, allowed) or within(allowed, module) for allowed in rules[0]):
            pytest.fail(f"{name_of(path)} imports {module}")


@pytest.mark.parametrize("path", [path for path in SOURCES if name_of(path).startswith(NO_TORCH)], ids=name_of)
def test_pure_files_know_no_torch(path: Path):
    assert not any(within(module, "torch") for module in imports_of(path))


def test_the_command_line_starts_without_torch_and_without_ray():
    code = "import sys, launch.cli; sys.exit(', '.join(m for m in ('torch', 'ray', 's3fs') if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"imported: {done.stderr}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=name_of)
def test_packages_are_empty_so_that_importing_a_config_costs_nothing(path: Path):
    assert path.read_text() == ""


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_grows_past_what_one_reads_at_once(path: Path):
    text = path.read_text()
    assert text.count("\n") <= 350, "a file of over 350 lines: a concept is missing a name"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_kernel = any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)  # read straight through, like a formula
            allowed = 80 if is_kernel else 40
            assert (node.end_lineno or 0) - node.lineno < allowed, f"{node.name} has over {allowed} lines"
