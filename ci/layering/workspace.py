"""The packages of a cargo workspace and the dependencies between them."""

import dataclasses
import pathlib
import re
import tomllib

KINDS = {"dependencies": "", "build-dependencies": "build", "dev-dependencies": "dev"}


@dataclasses.dataclass(frozen=True)
class Dependency:
    """A dependency in a manifest. `kind` is "", "build" or "dev"; `folder` is None if it is not given by path."""

    name: str
    kind: str
    line: int
    folder: pathlib.Path | None


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of the workspace."""

    name: str
    folder: pathlib.Path
    library: str
    dependencies: tuple[Dependency, ...]

    @property
    def manifest(self):
        """The path of its Cargo.toml."""
        return self.folder / "Cargo.toml"


def line_of(text, table, key):
    """Returns the line of `key` in a table of a manifest, or 1 if it is not found."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+([^\]]*)\]", line)
        if header:
            name = header[1].replace(" ", "")
            if re.search(rf"{table}\.[\"']?{re.escape(key)}[\"']?$", name):
                return number
            inside = name == table or name.endswith("." + table)
        elif inside and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
            return number
    return 1


def dependency_tables(manifest):
    """Yields (table, entries) for all dependencies of a manifest, those of single targets included."""
    for table in KINDS:
        yield table, manifest.get(table, {})
        for target in manifest.get("target", {}).values():
            yield table, target.get(table, {})


def dependencies(folder, manifest, text, root, shared):
    """Yields the dependencies of a package. `shared` is the table `workspace.dependencies` of the folder `root`."""
    for table, entries in dependency_tables(manifest):
        for key, entry in entries.items():
            entry, base = (entry, folder) if isinstance(entry, dict) else ({}, folder)
            if entry.get("workspace"):
                inherited = shared.get(key, {})
                entry, base = (inherited if isinstance(inherited, dict) else {}), root
            target = (base / entry["path"]).resolve() if "path" in entry else None
            yield Dependency(entry.get("package", key), KINDS[table], line_of(text, table, key), target)


def member_folders(root, workspace):
    """Returns the folders of a workspace's members. Patterns match folders that hold a Cargo.toml."""
    excluded = {(root / path).resolve() for path in workspace.get("exclude", [])}
    found = {root}
    for pattern in workspace.get("members", []):
        matches = [root] if pattern == "." else root.glob(pattern)
        found.update(path.resolve() for path in matches if (path / "Cargo.toml").is_file())
    return sorted(found - excluded)


def read(root):
    """Returns the packages of the workspace in the folder `root`, sorted by folder."""
    root = root.resolve()
    workspace = tomllib.loads((root / "Cargo.toml").read_text()).get("workspace", {})
    shared = workspace.get("dependencies", {})
    packages = []
    for folder in member_folders(root, workspace):
        text = (folder / "Cargo.toml").read_text()
        manifest = tomllib.loads(text)
        if "package" not in manifest:
            continue
        name = manifest["package"]["name"]
        library = manifest.get("lib", {}).get("name", name.replace("-", "_"))
        found = tuple(dependencies(folder, manifest, text, root, shared))
        packages.append(Package(name, folder, library, found))
    return packages
