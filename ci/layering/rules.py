"""The rules on packages, modules and files. Each rule yields one line of text for each violation."""

from layering import graph, rust

# Crates that link libtorch, and the names of their libraries in source text.
LIBTORCH = {"tch", "torch-sys"}
LIBTORCH_NAMES = {"tch", "torch_sys"}


class Places:
    """The places of names in a table of layers, which is a list of sets from the top."""

    def __init__(self, table):
        self.depths = {name: depth for depth, layer in enumerate(table) for name in layer}

    def __contains__(self, name):
        return name in self.depths

    def is_below(self, lower, upper):
        """Whether `lower` is in a lower layer than `upper`. Both must have a place."""
        return self.depths[lower] > self.depths[upper]


def relative(path, root):
    """Returns a path as it is printed: relative to the workspace."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


# --- Packages ---


def inside_dependencies(packages):
    """Returns for each package of the workspace, by name, its dependencies on others and those packages."""
    by_folder = {package.folder: package for package in packages}
    return {
        package.name: [
            (dependency, by_folder[dependency.folder])
            for dependency in package.dependencies
            if dependency.folder in by_folder
        ]
        for package in packages
    }


def package_circles(packages, root):
    """Packages must not depend on each other in a circle, dev-dependencies included."""
    inside = inside_dependencies(packages)
    manifests = {package.name: relative(package.manifest, root) for package in packages}
    edges = {name: {target.name for _, target in found} for name, found in inside.items()}
    for circle in graph.circles(edges):
        steps = []
        for name, following in zip(circle, circle[1:] + circle[:1]):
            found = [dependency for dependency, target in inside[name] if target.name == following]
            dependency = min(found, key=lambda each: each.kind)
            kind = f" ({dependency.kind}-dependency)" if dependency.kind else ""
            steps.append((f"{manifests[name]}:{dependency.line}", f"{name}{kind}"))
        path = " -> ".join([name for _, name in steps] + [circle[0]])
        places = ", ".join(place for place, _ in steps)
        yield f"{steps[0][0]}: circle of packages: {path} ({places})"


def package_layers(packages, root, table):
    """A package must have a place in the table, and depend on packages of lower layers only."""
    places, inside = Places(table), inside_dependencies(packages)
    for package in packages:
        manifest = relative(package.manifest, root)
        if package.name not in places:
            yield f"{manifest}:1: the package {package.name} has no place; add it to PACKAGES in ci/layers"
            continue
        for dependency, target in inside[package.name]:
            is_upwards = target.name in places and not places.is_below(target.name, package.name)
            if is_upwards and target is not package:
                kind = f" ({dependency.kind}-dependency)" if dependency.kind else ""
                place = f"{manifest}:{dependency.line}"
                yield f"{place}: {package.name} depends on {target.name}{kind}, which is not in a layer below it"


def libtorch_path(name, packages, inside):
    """Returns (dependency, names) of the way from a package to libtorch, or None.

    The dev-dependencies of the package itself count, because its tests link them; those of others do not.
    """
    ways = [(None, (name,))]
    known = {name}
    for first, path in ways:
        for dependency in packages[path[-1]].dependencies:
            if dependency.name in LIBTORCH and (first is None or dependency.kind != "dev"):
                return first or dependency, (*path, dependency.name)
        for dependency, target in inside[path[-1]]:
            if target.name not in known and (first is None or dependency.kind != "dev"):
                known.add(target.name)
                ways.append((first or dependency, (*path, target.name)))
    return None


def libtorch_dependencies(packages, root, with_libtorch):
    """Only the packages `with_libtorch` may depend on libtorch, directly or through packages of the workspace."""
    by_name, inside = {package.name: package for package in packages}, inside_dependencies(packages)
    for package in packages:
        found = None if package.name in with_libtorch else libtorch_path(package.name, by_name, inside)
        if found:
            dependency, path = found
            place = f"{relative(package.manifest, root)}:{dependency.line}"
            yield f"{place}: {package.name} must not depend on libtorch: {' -> '.join(path)}"


def is_libtorch_name(tokens, place):
    """Whether the word at a place names the library of a crate that links libtorch."""
    if not tokens[place].is_word or tokens[place].text not in LIBTORCH_NAMES:
        return False
    before, following = rust.text_at(tokens, place - 1), rust.text_at(tokens, place + 1)
    return following == "::" or before in {"use", "crate"}


def source_files(package):
    """Returns the Rust files of a package: of its library, programs, tests, examples and build script."""
    folders = [package.folder / name for name in ["src", "tests", "examples", "benches"]]
    return sorted([*package.folder.glob("*.rs"), *(path for folder in folders for path in folder.rglob("*.rs"))])


def libtorch_names(packages, root, with_libtorch):
    """Only the packages `with_libtorch` may name libtorch's crates in source, tests and examples included."""
    for package in packages:
        for path in [] if package.name in with_libtorch else source_files(package):
            tokens = rust.tokenize(path.read_text())
            for token in (tokens[place] for place in range(len(tokens)) if is_libtorch_name(tokens, place)):
                yield f"{relative(path, root)}:{token.line}: {package.name} must not use libtorch: {token.text}"


# --- Modules and files of one package ---


def first_imports(found, edges):
    """Returns {source: {target: import}} with the first import of each edge.

    `edges` returns the source and the targets of an import. Imports in tests are left out.
    """
    result = {}
    for each in found:
        if each.in_tests:
            continue
        source, targets = edges(each)
        for target in targets:
            if target != source:
                result.setdefault(source, {}).setdefault(target, each)
    return result


def file_circles(found, root):
    """Files must not import each other in a circle. Imports that exist in tests only do not count."""
    edges = first_imports(found, lambda each: (each.source, [each.target] if each.target else []))
    for circle in graph.circles(edges):
        steps = [edges[source][target] for source, target in zip(circle, circle[1:] + circle[:1])]
        path = " -> ".join(f"{relative(each.source, root)}:{each.line} ({each.text})" for each in steps)
        first = relative(circle[0], root)
        yield f"{first}:{steps[0].line}: circle of files: {path} -> {first}"


def module_circles(found, root):
    """Modules directly under src/ must not import each other in a circle. Imports in tests do not count."""
    edges = first_imports(found, lambda each: (each.source_module, each.modules))
    for circle in graph.circles(edges):
        steps = [edges[source][target] for source, target in zip(circle, circle[1:] + circle[:1])]
        path = " -> ".join(
            f"{name} ({relative(each.source, root)}:{each.line} {each.text})" for name, each in zip(circle, steps)
        )
        yield f"{relative(steps[0].source, root)}:{steps[0].line}: circle of modules: {path} -> {circle[0]}"


def modules_without_place(roots, root, places):
    """Every module directly under src/ must have a place in the table; a `lib.rs` needs none."""
    seen = set()
    for crate in roots:
        is_library = crate.source.path.name == "lib.rs"
        tops = [] if is_library else [(crate.source.path.stem, crate)]
        tops += [(name, child) for name, child in crate.children.items() if not child.is_test]
        for name, module in tops:
            if name not in places and name not in seen:
                seen.add(name)
                path = relative(module.source.path, root)
                yield f"{path}:1: the module {name} has no place; add it to MODULES in ci/layers"


def module_layers(found, roots, root, table):
    """A module must import modules of lower layers only, in tests as well."""
    places = Places(table)
    yield from modules_without_place(roots, root, places)
    for each in found:
        for target in sorted(each.modules):
            if each.source_module not in places or target not in places:
                continue
            if not places.is_below(target, each.source_module):
                where = f"{relative(each.source, root)}:{each.line}"
                tests = " in tests" if each.in_tests else ""
                yield (
                    f"{where}: {each.source_module} imports {each.text}{tests}, "
                    f"but {target} is not in a layer below {each.source_module}"
                )


def undeclared_files(package, roots, root):
    """Every file under src/ must belong to a module, because the other rules read files by their modules."""
    declared = {module.source.path for crate in roots for module in crate.tree()}
    for path in sorted((package.folder / "src").rglob("*.rs")):
        if path.resolve() not in declared:
            yield f"{relative(path, root)}:1: no module declares this file"
