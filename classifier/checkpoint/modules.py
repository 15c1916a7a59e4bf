"""The user's own modules: what a training used of them, and where a later one finds them.

They are those that no package was installed for. A module is known by its name, its folder and the
SHA-256 of its source.
"""

import ast
import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path

import classifier


def used_modules(names: Iterable[str]) -> dict[str, Path]:
    """The user's modules that a training uses: files, or the folders of packages.

    Those are the top-level ones that the config names, what they import, also within functions,
    and what else of the same folders is imported by now.
    """
    named = {name: path for name in sorted(names) if (path := _imported_source(name))}
    own = {n: p for n, p in named.items() if n != "classifier" and not is_installed(p)}
    folders = {path.parent for path in own.values()}
    pending = list(own.values())
    while pending:
        for name in _imports(pending.pop()) - own.keys():
            found = next(filter(None, (source_in(folder, name) for folder in folders)), None)
            if found:
                own[name] = found
                pending.append(found)
    for name in [name for name in list(sys.modules) if "." not in name and name != "__main__"]:
        path = _imported_source(name)
        if path and path.parent in folders:
            own[name] = path
    return {name: own[name] for name in sorted(own.keys() - {"classifier"})}


def code_digests(modules: Mapping[str, Path]) -> dict[str, str]:
    """The SHA-256 of the source of this package and of the user's modules, by name.

    Installed packages have versions instead.
    """
    own = {"classifier": Path(classifier.__file__).parent, **modules}
    return {name: digest(path) for name, path in own.items()}


def is_installed(source: Path) -> bool:
    """Whether a package or module was installed, or came with Python."""
    standard = Path(json.__file__).parents[1]
    installed = not {"site-packages", "dist-packages"}.isdisjoint(source.parts)
    return installed or source.is_relative_to(standard)


def digest(source: Path) -> str:
    """The SHA-256 of a module's file, or of all files of Python in a package's folder."""
    return _digest(_files(source))


def _files(source: Path) -> dict[str, bytes]:
    """The files of a module, by their path from the folder that it is in."""
    files = sorted(source.rglob("*.py")) if source.is_dir() else [source]
    return {file.relative_to(source.parent).as_posix(): file.read_bytes() for file in files}


def _digest(files: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name, content in files.items():
        found.update(f"{name}\n".encode())
        found.update(content)
    return found.hexdigest()


def _imports(source: Path) -> set[str]:
    """The top-level modules that the source of a module imports anywhere."""
    found: set[str] = set()
    for content in _files(source).values():
        with contextlib.suppress(SyntaxError, ValueError):  # of a file that nobody imports
            for node in ast.walk(ast.parse(content)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    found.add(node.module.partition(".")[0])
    return found


def _imported_source(name: str) -> Path | None:
    module = sys.modules.get(name)
    return _file_or_folder(getattr(module, "__path__", None), getattr(module, "__file__", None))


def source_in(folder: Path | str, name: str) -> Path | None:
    """The file of a module, or the folder of a package, in a folder."""
    return _source_of(PathFinder.find_spec(name, [str(folder)]))


def _source_of(spec: ModuleSpec | None) -> Path | None:
    return _file_or_folder(spec.submodule_search_locations, spec.origin) if spec else None


def _file_or_folder(folders: Iterable[str] | None, file: str | None) -> Path | None:
    path = next(iter(folders or ()), file)
    return Path(path) if path else None


# ---- finding them again ----


@dataclass
class OwnModules(MetaPathFinder):
    """Finds exactly the modules that a training recorded, behind all that is installed.

    Each is taken from the folder that it was in then, as it is now; where it is not there any more,
    from another folder if its source is the very same.
    """

    folders: dict[str, str]  # the recorded one of each
    digests: dict[str, str]  # the recorded SHA-256 of each
    elsewhere: str  # the other folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: object = None
    ) -> ModuleSpec | None:
        """Python asks it for what nobody else finds."""
        top = fullname.partition(".")[0]
        if top not in self.folders or top not in self.digests:
            return None
        if source_in(self.folders[top], top):
            return PathFinder.find_spec(fullname, [self.folders[top]] if path is None else path)
        loader = _Verified(self.elsewhere, self._same(top))
        return spec_from_loader(fullname, loader) if loader.file_of(fullname) else None

    def problem(self, name: str) -> str:
        """Why a module cannot be taken for the recorded one; empty if it can, or is not known."""
        known = name in self.folders
        if name == "classifier" or (name in sys.modules and not known):
            return ""
        recorded = self.folders.get(name, "")
        together = [name, *(other for other in self.folders if self.folders[other] == recorded)]
        for other in together:  # what it imports, too
            loaded = _imported_source(other)
            strange = loaded and not is_installed(loaded) and not self._is(loaded, other)
            if other == "__main__" and not self._is(loaded, other):
                was = f"a script in '{self.folders[other]}', which nothing else can import"
                return f"'{other}' was {was}: put the class into a file of its own"
            if strange or self._is_served_otherwise(other):
                return f"'{loaded or other}' of before is not {self._was(other)}: restart Python"
        found = _imported_source(name) or found_by_others(name)
        if found and not is_installed(found) and not self._is(found, name):
            return f"'{found}' is not {self._was(name)}"
        if found or not known or source_in(recorded, name):
            return ""
        return next(filter(None, map(self._elsewhere, together)), "")

    def _is_served_otherwise(self, name: str) -> bool:
        """Whether a run that was loaded before in this process has another module of the name."""
        folder = self.folders.get(name)
        return any(
            isinstance(finder, OwnModules)
            and finder.folders.get(name, folder) != folder
            and finder.digests.get(name) != self.digests.get(name)
            for finder in sys.meta_path
        )

    def _elsewhere(self, name: str) -> str:
        """Why the other folder does not serve for a module that is gone."""
        if self._same(name):
            return ""
        if here := source_in(self.elsewhere, name):
            return f"'{here}' is not {self._was(name)}"
        gone = self.folders[name]
        return f"'{name}' is not in '{gone}' any more: start in the folder that it is in now"

    def notes(self) -> list[str]:
        """What there is to say of modules that are taken from where they were recorded."""
        said = []
        for name, folder in self.folders.items():
            home, here = source_in(folder, name), source_in(self.elsewhere, name)
            if home is None or not self._is(_imported_source(name), name):
                continue
            if digest(home) != self.digests[name]:
                said.append(f"'{home}' was edited since the run was trained with it.")
            elif here and digest(here) != self.digests[name]:
                said.append(f"'{home}' is used, as when it was trained; '{here}' is another.")
        return said

    def _was(self, name: str) -> str:
        return f"the one that it was trained with, which was in '{self.folders.get(name)}'"

    def _is(self, source: Path | None, name: str) -> bool:
        """Whether a file or folder is the recorded module, which may have been edited there."""
        if source is None:
            return False
        same_place = str(source.parent) == self.folders.get(name)
        return same_place or digest(source) == self.digests.get(name)

    def _same(self, name: str) -> dict[str, bytes]:
        """The files of a module that is elsewhere, if it is the very same."""
        source = source_in(self.elsewhere, name)
        files = _files(source) if source else {}
        return files if files and _digest(files) == self.digests[name] else {}


@dataclass
class _Verified(SourceLoader):
    """Loads modules from bytes whose digest is known; no compiled file beside them is read."""

    folder: str
    files: Mapping[str, bytes]

    def file_of(self, fullname: str) -> str | None:
        """The file of a module by its path in the folder; a package needs no __init__.py."""
        base = fullname.replace(".", "/")
        names = (f"{base}.py", f"{base}/__init__.py")
        found = next((name for name in names if name in self.files), None)
        inside = any(name.startswith(f"{base}/") for name in self.files)
        return found or (names[1] if inside else None)

    def get_filename(self, fullname: str) -> str:
        return str(Path(self.folder, self.file_of(fullname) or ""))

    def get_data(self, path: str | bytes) -> bytes:
        return self.files.get(Path(str(path)).relative_to(self.folder).as_posix(), b"")


def found_by_others(name: str) -> Path | None:
    """Where Python finds a top-level module without what was recorded; imports nothing."""
    for finder in sys.meta_path:
        spec = None if isinstance(finder, OwnModules) else finder.find_spec(name, None)
        if spec:
            return _source_of(spec) or Path(str(spec.origin))
    return None


@contextlib.contextmanager
def served(own: OwnModules) -> Iterator[None]:
    """Within, Python finds the recorded modules."""
    sys.meta_path.append(own)
    try:
        yield
    finally:
        sys.meta_path.remove(own)


def serve_on(own: OwnModules) -> None:
    """Lets Python find them from now on, if one was imported: its functions may import others."""
    if own.folders.keys() & sys.modules.keys() and own not in sys.meta_path:
        sys.meta_path.append(own)


def prelude() -> str:
    """Statements for a process that is started, so that it finds the same modules."""
    found = [known for known in sys.meta_path if isinstance(known, OwnModules) and known.folders]
    folder = str(Path(classifier.__file__).parents[1])
    importing = f"sys.path.append({folder!r}); from {__name__} import OwnModules; "
    return f"{importing}sys.meta_path.extend({found!r}); " if found else ""
