"""The rules of docs/architecture.md: who may import whom, and how large things may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from model.mixers.registry import MIXERS

ROOT = Path(__file__).parents[1]
ROOMS = ("model", "data_pipeline", "orchestrator", "launch")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def module_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


MODULES = {module_of(path) for path in SOURCES if path.name != "__init__.py"}
PACKAGES = {module_of(path) for path in SOURCES if path.name == "__init__.py"}
KNOW_KINDS = ("model/mixers/", "model/presets.py", "model/weights/hf/")
"""A mixer's folder, the registry, models by name, and formats that have words of their own for the kinds."""

ONLY_IN = {
    "torchtitan": ("model/recompute.py",),
    "aiohttp": ("launch/ui/", "data_pipeline/store/s3"),
    "fla": ("model/kernels/delta_rule/fla.py",),
    "triton": ("model/kernels/*/triton", "model/kernels/triton_tiles.py"),
    "s3fs": ("data_pipeline/store/s3.py",),
    "aiobotocore": ("data_pipeline/store/s3",),
    "botocore": ("data_pipeline/store/s3",),
    "pyarrow": ("data_pipeline/sources/",),
    "xxhash": ("data_pipeline/read/row_hash.py", "data_pipeline/dataset/pages.py"),
    "zstandard": ("data_pipeline/sources/unpack.py",),
    "tokenizers": ("data_pipeline/dataset/",),
    "pynvml": ("orchestrator/node/gpu_meter.py",),
    "moto": ("launch/servers/moto.py",),
    "omegaconf": ("launch/config/",),
    "ray": ("orchestrator/ray_backend/", "launch/runs/connection.py"),
    "typer": ("launch/cli.py", "launch/commands/"),
    "rich": ("launch/show/", "launch/commands/", "launch/demo/"),
}
"""Package → the only places that import it: beginnings of paths, `*` for any folder."""

DATA_PIPELINE = ("data_pipeline.config", "data_pipeline.errors", "data_pipeline.paths", "data_pipeline.stages")
"""What the rooms of the data pipeline have in common."""
SHARED = (
    "orchestrator.alerts_config",
    "orchestrator.attended",
    "orchestrator.config",
    "orchestrator.codec",
    "orchestrator.errors",
    "orchestrator.deadlines",
    "orchestrator.host_memory",
    "orchestrator.identity",
    "orchestrator.image_header",
    "orchestrator.messages",
    "orchestrator.telemetry",
    "model.train.metrics",
)
"""What all rooms of the orchestrator have in common."""
RECORDS = (*SHARED, "orchestrator.records")
"""The same for the rooms that read and write what is durable."""
LAUNCH = ("launch.errors", "launch.status", "launch.units")
"""What all rooms of launch/ have in common."""
LAUNCH_ROOMS = tuple(f"launch.{room}" for room in ("config", "runs", "weights", "machine", "show", "demo", "ui"))
"""What commands call."""
MAY_IMPORT = {
    "model/": ("model",),
    "data_pipeline/config.py": (),
    "data_pipeline/errors.py": (),
    "data_pipeline/paths.py": (),
    "data_pipeline/stages.py": ("data_pipeline.config",),
    "data_pipeline/store/": ("data_pipeline.store", *DATA_PIPELINE),
    "data_pipeline/order/": ("data_pipeline.order",),
    "data_pipeline/sources/": ("data_pipeline.sources", *DATA_PIPELINE),
    "data_pipeline/dataset/": (*(f"data_pipeline.{room}" for room in ("dataset", "sources", "order", "store")), *DATA_PIPELINE),
    "data_pipeline/read/": (*(f"data_pipeline.{room}" for room in ("read", "dataset", "order", "store")), *DATA_PIPELINE),
    "orchestrator/alerts_config.py": (),
    "orchestrator/attended.py": (),
    "orchestrator/config.py": (
        "orchestrator.alerts_config",
        "orchestrator.codec",
        "model.compute",
        "model.config",
        "model.optim",
        "model.parallel.config",
        "model.parameters",
        "data_pipeline.config",
        "data_pipeline.stages",
    ),
    "orchestrator/codec.py": (),
    "orchestrator/errors.py": (),
    "orchestrator/deadlines.py": (),
    "orchestrator/identity.py": ("data_pipeline.config",),
    "orchestrator/host_memory.py": (),
    "orchestrator/image_header.py": ("orchestrator.codec",),
    "orchestrator/telemetry.py": (),
    "orchestrator/messages.py": ("orchestrator.codec", "orchestrator.telemetry", "model.train.metrics", "data_pipeline.config"),
    "orchestrator/verify.py": RECORDS,
    "orchestrator/records/": (
        *RECORDS,
        "model.config",
        "model.parallel.config",
        "model.parameters",
        "data_pipeline.order",
        "data_pipeline.store.protocol",
    ),
    "orchestrator/control/": ("orchestrator.control", *RECORDS, "data_pipeline.store.protocol"),
    "orchestrator/health/": ("orchestrator.health", "orchestrator.control", *RECORDS),
    "orchestrator/alerting/": (
        "orchestrator.alerting",
        "orchestrator.health",
        "orchestrator.control",
        *RECORDS,
        "data_pipeline.config",
        "data_pipeline.store.protocol",
    ),
    "orchestrator/node/": ("orchestrator.node", *SHARED, "orchestrator.records.keys", *DATA_PIPELINE, "data_pipeline.store"),
    "orchestrator/fleet/": ("orchestrator.fleet", "orchestrator.node.agent", "orchestrator.node.orders", "orchestrator.control", *RECORDS),
    "orchestrator/ray_backend/": (
        "orchestrator.ray_backend",
        "orchestrator.alerting",
        "orchestrator.health",
        "orchestrator.fleet",
        "orchestrator.node",
        "orchestrator.control",
        *RECORDS,
        "data_pipeline",
    ),
    "orchestrator/worker/": ("orchestrator.worker", *RECORDS, "model", "data_pipeline"),
    "launch/errors.py": (),
    "launch/status.py": (),
    "launch/units.py": (),
    "launch/servers/": (),
    "launch/config/": ("launch.config", *LAUNCH, "orchestrator.config", "model", *DATA_PIPELINE),
    "launch/runs/": ("launch.runs", "launch.config", *LAUNCH, "orchestrator", "model.train.metrics", "data_pipeline"),
    "launch/weights/": ("launch.weights", "launch.runs.record", *LAUNCH, "orchestrator", "model", "data_pipeline"),
    "launch/machine/": (
        "launch.machine",
        "launch.runs.connection",
        *LAUNCH,
        "orchestrator.host_memory",
        "orchestrator.records",
        "model",
        "data_pipeline",
    ),
    "launch/show/": ("launch.show", "launch.machine.checks", "model.train.metrics", *LAUNCH),
    "launch/ui/": (
        "launch.ui",
        "launch.config.storage",
        "launch.runs",
        "launch.show.answer_json",
        "launch.show.goodput",
        *LAUNCH,
        "orchestrator",
        "model.train.metrics",
        "data_pipeline",
    ),
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
    "orchestrator/alerting/",
    "orchestrator/alerts_config.py",
    "orchestrator/control/",
    "orchestrator/fleet/",
    "orchestrator/health/",
    "orchestrator/node/",
    "orchestrator/ray_backend/",
    "orchestrator/records/",
    "orchestrator/attended.py",
    "orchestrator/config.py",
    "orchestrator/codec.py",
    "orchestrator/errors.py",
    "orchestrator/deadlines.py",
    "orchestrator/host_memory.py",
    "orchestrator/identity.py",
    "orchestrator/image_header.py",
    "orchestrator/messages.py",
    "orchestrator/telemetry.py",
    "orchestrator/verify.py",
    "model/compute.py",
    "model/config.py",
    "model/declare.py",
    "model/parameters.py",
    "model/presets.py",
    "model/require.py",
    "model/costs/",
    "model/mixers/mixer.py",
    "model/mixers/registry.py",
    "model/share.py",
    "model/sizes.py",
    "model/optim/config.py",
    "model/optim/groups.py",
    "model/optim/schedule.py",
    "model/parallel/config.py",
    "model/train/metrics.py",
    "model/weights/hf/errors.py",
    "model/weights/hf/families.py",
    "model/weights/hf/family.py",
    "model/weights/hf/fields.py",
    "model/weights/hf/olmo",
    "model/weights/hf/serving.py",
    "data_pipeline/config.py",
    "data_pipeline/errors.py",
    "data_pipeline/paths.py",
    "data_pipeline/store/",
    "data_pipeline/sources/",
    "data_pipeline/dataset/",
    "data_pipeline/order/",
    "launch/config/",
    "launch/runs/",
    "launch/show/",
    "launch/ui/",
)
NO_TORCH_BY_NAME = ("config.py", "costs.py", "mixer.py", "sizes.py")
"""Files in the folders of mixers, feed-forwards and kernels."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from imported_at_run_time(node)


def imports_of(path: Path) -> set[str]:
    """Dotted names of every module that the file imports, at any depth."""
    found = set()
    for node in imported_at_run_time(ast.parse(path.read_text())):
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
            assert any(fnmatch(name_of(path), f"{door}*") for door in doors), (
                f"{name_of(path)} imports {package}; only {', '.join(doors)} may"
            )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_rooms_import_only_their_neighbours(path: Path):
    rules = [allowed for place, allowed in MAY_IMPORT.items() if name_of(path).startswith(place)]
    if path.name == "__init__.py":
        return
    assert len(rules) == 1, f"{name_of(path)} belongs to no room of the architecture"
    for module in imports_of(path):
        if module.split(".")[0] in ROOMS and not any(within(module, allowed) or within(allowed, module) for allowed in rules[0]):
            pytest.fail(f"{name_of(path)} imports {module}")


PURE = [
    path for path in SOURCES if name_of(path).startswith(NO_TORCH) or (path.name in NO_TORCH_BY_NAME and name_of(path).startswith("model/"))
]


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_pure_files_know_no_torch(path: Path):
    assert not any(within(module, "torch") for module in imports_of(path))


def test_importing_every_pure_file_costs_no_torch():
    """Not even by way of what they import; ray_backend imports Ray, which is slow enough by itself."""
    names = [module_of(path) for path in PURE if "ray_backend" not in name_of(path)]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_is_imported_of_this_project_exists(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ROOMS:
            assert node.module in MODULES or node.module in PACKAGES, f"{name_of(path)}:{node.lineno}: there is no {node.module}"


def test_no_module_imports_itself_by_way_of_others():
    """Imports inside functions count too: they only hide a circle."""
    graph = {module_of(path): {found for found in imports_of(path) if found in MODULES} for path in SOURCES}
    reached: dict[str, set[str]] = {}

    def visit(module: str, way: tuple[str, ...]) -> set[str]:
        assert module not in way, f"a circle: {' → '.join((*way[way.index(module) :], module))}"
        if module not in reached:
            reached[module] = set().union(*(visit(other, (*way, module)) for other in graph[module]), {module})
        return reached[module]

    for module in graph:
        visit(module, ())


def room_of(module: str) -> str:
    """A package's folder, or a file on top of the package."""
    return ".".join(module.split(".")[:2])


def test_no_room_imports_itself_by_way_of_others():
    rooms: dict[str, set[str]] = {}
    for path in SOURCES:
        room = room_of(module_of(path))
        rooms.setdefault(room, set()).update(room_of(found) for found in imports_of(path) if found in MODULES and room_of(found) != room)
    while free := [room for room, others in rooms.items() if not others & rooms.keys()]:
        for room in free:
            del rooms[room]
    assert not rooms, f"in or above a circle: {', '.join(sorted(rooms))}"


@pytest.mark.parametrize("path", [path for path in SOURCES if not name_of(path).startswith(KNOW_KINDS)], ids=name_of)
def test_a_kind_of_mixer_is_named_only_in_its_folder_and_the_registry(path: Path):
    """What works by kind asks the registry; who compares words forgets the next kind."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and node.value in MIXERS:
            pytest.fail(f"{name_of(path)}:{node.lineno}: {node.value!r}; ask model.mixers.registry.MIXERS instead")


@pytest.mark.parametrize("path", [path for path in SOURCES if name_of(path) != "launch/show/console.py"], ids=name_of)
def test_what_prints_takes_nothing_for_markup(path: Path):
    """Errors of others have brackets in them, and `[/...]` ends a program that takes them for its own."""
    makes = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Console")
    ]
    assert not makes, f"{name_of(path)}:{makes[0].lineno}: launch.show.console makes it"


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
            allowed = 60 if is_kernel else 40
            assert (node.end_lineno or 0) - node.lineno < allowed, f"{node.name} has over {allowed} lines"
