"""The house of bundle/scripts: rooms import only from rooms below them, and no file imports itself by a detour."""

import ast
import re

from conftest import BUNDLE

SCRIPTS = BUNDLE / "scripts"
ROOMS = [
    "__main__", "report", "evaluation", "inference", "training", "settings", "data", "folders", "variants", "method",
    "ground floor",
]  # fmt: skip


def imports_of(path):
    """Modules of scripts that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scripts":
            below = [f"{node.module}.{name.name}" for name in node.names]
            yield from below if all(map(is_module, below)) else [node.module]
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "scripts")


def is_module(name):
    path = BUNDLE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def names_in(module):
    """What a module defines at its top, and the modules of a folder."""
    if not module.with_suffix(".py").is_file():
        return {path.stem for path in module.iterdir()}
    tree = ast.parse(module.with_suffix(".py").read_text())
    parts = [part for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign)) for part in ast.walk(node)]
    assigned = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return assigned | {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def name_of(path):
    return ".".join(path.relative_to(BUNDLE).with_suffix("").parts).removesuffix(".__init__")


def room_of(module):
    parts = module.split(".")[1:]
    return parts[0] if parts and parts[0] in ROOMS else "ground floor"


GRAPH = {name_of(path): set(imports_of(path)) for path in SCRIPTS.rglob("*.py")}


def test_every_file_stands_in_a_known_room():
    folders = {path.name for path in SCRIPTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {room for room in ROOMS if room not in ("__main__", "ground floor")}


def test_rooms_import_only_from_rooms_below_them():
    upward = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if ROOMS.index(room_of(other)) < ROOMS.index(room_of(module))
    ]
    assert upward == []


def test_names_are_imported_from_the_file_that_defines_them():
    detours = [
        f"{path.name}: {name.name} of {node.module}"
        for path in SCRIPTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("scripts.")
        for name in node.names
        if name.name not in names_in(BUNDLE.joinpath(*node.module.split(".")))
    ]
    assert detours == []


def test_no_file_imports_itself_by_a_detour():
    def reached(module, seen):
        for other in GRAPH.get(module, ()):
            if other not in seen:
                seen.add(other)
                reached(other, seen)
        return seen

    assert [module for module in GRAPH if module in reached(module, set())] == []


def test_the_method_knows_neither_ignite_nor_mlflow_nor_handlers_know_networks():
    for path in SCRIPTS.glob("*/*.py"):
        if path.parent.name not in ("method", "variants") and path.name != "handlers.py":
            continue
        forbidden = r"scripts\.method\.resunet" if path.name == "handlers.py" else r"^\s*(from|import) (ignite|mlflow)"
        assert not re.search(forbidden, path.read_text(), re.MULTILINE), path


def test_no_config_nor_script_holds_a_device_or_an_absolute_path():
    for path in [*SCRIPTS.rglob("*.py"), *(BUNDLE / "configs").glob("*.yaml")]:
        text = path.read_text()
        text = re.sub(r'""".*?"""', "", text, flags=re.DOTALL) if path.suffix == ".py" else text
        code = re.sub(r"#.*", "", text)
        assert not re.search(r"[\"']cuda:\d[\"']|[\"']/(home|root|tmp|mnt)/", code), path


def test_functions_and_files_are_short():
    """At most 40 lines without the docstring, and 250."""
    long = []
    for path in SCRIPTS.rglob("*.py"):
        text = path.read_text()
        long += [path.name] if len(text.splitlines()) > 250 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[bool(ast.get_docstring(node)) :]
                long += [f"{path.name}: {node.name}"] if body and body[-1].end_lineno - body[0].lineno >= 40 else []
    assert long == []
