"""Importing what a user named: by module, or by file; and saying what went wrong where that fails."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from runstream.errors import GraphLoadError


class NameTaken(GraphLoadError):
    """Two modules of one name: of the targets together, and no matter which of them is loaded first."""


def make_importable(folder: Path) -> None:
    """Put the folder first on the path, as Python does with the folder of a script."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def import_module(name: str) -> ModuleType:
    """Import a module by its dotted name; the current folder is importable.

    Raises:
        GraphLoadError: there is no such module, or it raised while it was imported.
    """
    with _import_errors(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, something that it imports is not
            places = f"{Path.cwd()} and the installed packages"
            raise GraphLoadError(f"there is no module {error.name!r}; looked in {places}") from error


def import_file(path: Path) -> ModuleType:
    """Run the file as a module, once per process: two targets in one file share it.

    A file of a package is imported under its dotted name, so that its relative imports work. Any other gets a name of
    its own, so that files of one stem do not meet. The name depends on nothing but the path from the current folder:
    checkpoints refer to a state's classes by it, and another worker must find them.
    """
    path = path.resolve()
    if not path.is_file() or path.suffix != ".py":
        raise GraphLoadError(f"{path} is not a .py file" if path.exists() else f"there is no file {path}")
    package = _package_root(path)
    if package is not None:
        return _import_from_package(path, package)
    make_importable(path.parent)
    _refuse_foreign_siblings(path)
    name = _unique_name(path)
    return sys.modules[name] if name in sys.modules else _run_file(path, name)


def _run_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise GraphLoadError(f"Python has no loader for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, pydantic and get_type_hints look their module up here
    try:
        with _import_errors(str(path)):
            spec.loader.exec_module(module)
    except GraphLoadError:
        sys.modules.pop(name, None)
        raise
    return module


def _unique_name(path: Path) -> str:
    folder = Path.cwd()
    for identity in (path.relative_to(folder) if path.is_relative_to(folder) else path, path):
        digest = hashlib.sha256(identity.as_posix().encode()).hexdigest()[:12]
        name = f"runstream_graph_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"
        taken = sys.modules.get(name)
        if taken is None or taken.__file__ == str(path):
            return name
    raise GraphLoadError(f"cannot name the module of {path}: {name} is taken")


def _package_root(path: Path) -> Path | None:
    """The folder from which the file is imported by a dotted name, if it is in a package."""
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        folder = folder.parent
    return None if folder == path.parent or not path.stem.isidentifier() else folder


def _import_from_package(path: Path, root: Path) -> ModuleType:
    make_importable(root)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a package's types.py must not stand in for the standard library's
    parts = path.relative_to(root).with_suffix("").parts
    package = importlib.util.find_spec(parts[0])
    origin = None if package is None else package.origin
    if origin is None or Path(origin).resolve() != root / parts[0] / "__init__.py":
        raise NameTaken(f"{path} belongs to package {parts[0]!r}, but that name is taken by {origin}; rename one")
    return import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def _refuse_foreign_siblings(path: Path) -> None:
    """Refuse `import tools` where there is a `tools.py` beside the file but another folder's has been imported already.

    Python would give the file the other one, without a word.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # running the file says it better
    for name in _imported(tree):
        loaded = getattr(sys.modules.get(name), "__file__", None)
        siblings = (path.parent / f"{name}.py", path.parent / name / "__init__.py")
        own = next((sibling for sibling in siblings if sibling.is_file()), None)
        if own is not None and loaded is not None and not _is_installed(loaded) and Path(loaded).resolve() != own:
            raise NameTaken(f"imports {name!r}, which is {own}, but {loaded} has that name already; rename one")


def _imported(tree: ast.AST) -> set[str]:
    """The top-level names that the code imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@contextlib.contextmanager
def _import_errors(called: str) -> Iterator[None]:
    """Turn whatever the user's code raises while it is imported into an error that says what and where."""
    try:
        yield
    except GraphLoadError:
        raise
    except (Exception, SystemExit) as error:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        what = f"{type(error).__name__}: {message}" if message else type(error).__name__
        raise GraphLoadError(f"importing {called} raised {what}{_place_of(error)}") from error


def _place_of(error: BaseException) -> str:
    """The line of the user's own code at which it happened, or the last one if none was theirs."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen ") and frame.filename not in (__file__, importlib.__file__)
    ]
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    last = next(reversed(own or frames), None)
    return "" if last is None else f" ({last.filename}:{last.lineno})"


def _is_installed(filename: str) -> bool:
    """Whether the file belongs to the standard library or an installed package."""
    paths = sysconfig.get_paths()
    return any(Path(filename).is_relative_to(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
