"""The house: few rooms, each imports only from those above it, and one person can hold it in mind."""

import ast
from pathlib import Path

from dontblink import lineage, paths

ROOMS = (
    "statistics", "questions", "boxes", "models", "attention", "extraction", "studies", "figures", "publish", "monitor",
)  # fmt: skip
ABOVE = ("ground", *ROOMS, "dontblink_testbed", "dontblink_simulation")  # top to bottom
MOST_MODULES, MOST_LINES = 97, 25_050  # of lib/dontblink, without __init__.py
FILES = [file for package in lineage.PACKAGES for file in sorted((paths.ROOT / "lib" / package).rglob("*.py"))]


def find_room(file: Path) -> str:
    """Return the room of a module: its folder, `ground` for those beside the folders, or its own package."""
    package, *folders = file.relative_to(paths.ROOT / "lib").parts[:-1]
    return package if package != "dontblink" else folders[0] if folders else "ground"


def read_imports(file: Path) -> set[Path]:
    """Return the modules that a file imports, early or late, itself and packages' own files left out."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = {module for name in names if (module := lineage.find_module(name))}
    return {module for module in found if module.name != "__init__.py"} - {file}


def test_a_room_imports_only_from_rooms_above_it_and_no_modules_import_in_a_circle() -> None:
    imports = {file: read_imports(file) for file in FILES}
    for file, behind in imports.items():
        rooms = {find_room(module) for module in behind}
        lower = {room for room in rooms if ABOVE.index(room) > ABOVE.index(find_room(file))}
        assert not lower, f"{lineage.relative(file)} imports from {lower}, below its room"
    while leaves := {file for file, behind in imports.items() if not behind & imports.keys()}:
        imports = {file: behind for file, behind in imports.items() if file not in leaves}
    assert not imports, f"a circle among {sorted(map(lineage.relative, imports))}"


def test_the_house_stays_small() -> None:
    modules = [file for file in FILES if find_room(file) not in ABOVE[-2:] and file.name != "__init__.py"]
    n_lines = sum(len(file.read_text().splitlines()) for file in modules)
    assert {find_room(file) for file in modules} == {"ground", *ROOMS}
    assert len(modules) <= MOST_MODULES and n_lines <= MOST_LINES, f"{len(modules)} modules, {n_lines} lines"
