"""The imports of a package's files: which file uses an item of which other file, found by resolving paths.

An import is attributed to the file that defines the item, not to files that re-export it. Items of other packages,
names that a macro makes, and methods are not seen.
"""

import dataclasses
import pathlib

from layering import modules, rust

# A name of another package, which a look-up does not follow.
EXTERNAL = object()

# A word behind one of these is a new name, not the use of a name.
NAMING = modules.NAMED_ITEMS | {"mod", "let", "mut", "ref"}


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a look-up: the module that defines the item, or the module itself if `item` is None."""

    module: modules.Module
    item: str | None = None


@dataclasses.dataclass(frozen=True)
class Import:
    """A path in the file `source` that leads to the file `target`, or to no file if it names a module only.

    `modules` are the top modules that the path names and leads to.
    """

    source: pathlib.Path
    source_module: str
    line: int
    text: str
    target: pathlib.Path | None
    modules: frozenset[str]
    in_tests: bool


def top_module(module):
    """Returns the name of the module directly under the crate's root; for the root itself, the name of its file."""
    return module.ancestors[-2].name if module.parent is not None else module.source.path.stem


class Resolver:
    """Finds what paths lead to. `libraries` are the root modules that a path may begin with, by name."""

    def __init__(self, libraries):
        self.libraries = libraries

    def anchor(self, module, path):
        """Returns the module that a path starts from and the rest of the path, or None if the start is a plain name."""
        if path[0] == "crate":
            return module.root, path[1:]
        if path[0] not in {"self", "super"}:
            return None
        if path[0] == "self":
            path = path[1:]
        while path and path[0] == "super":
            module, path = module.parent or module, path[1:]
        return module, path

    def resolve(self, module, path, wants_module=False, seen=frozenset()):
        """Returns what a path in a module leads to: Found, or EXTERNAL if no module of the package is on its way."""
        anchored = self.anchor(module, path)
        if anchored:
            return self.walk(*anchored, wants_module, seen)
        if path[0] == "":
            path = path[1:]
            first = None
        else:
            first = self.look_up(module, path[0], wants_module or len(path) > 1, seen)
        if first is None and path[0] in self.libraries:
            first = Found(self.libraries[path[0]])
        if first is None or first is EXTERNAL or first.item is not None:
            return first or EXTERNAL
        return self.walk(first.module, path[1:], wants_module, seen)

    def walk(self, module, path, wants_module, seen):
        """Follows the rest of a path from a module. An unknown name counts as defined where it was looked up."""
        for place, name in enumerate(path):
            found = self.look_up(module, name, wants_module or place + 1 < len(path), seen)
            if found is None:
                return Found(module, name)
            if found is EXTERNAL or found.item is not None:
                return found
            module = found.module
        return Found(module)

    def look_up(self, module, name, wants_module, seen):
        """Returns what a name means in a module, or None if the module does not have it."""
        key = (id(module), name, wants_module)
        if key in seen:
            return None
        seen = seen | {key}
        child = Found(module.children[name]) if name in module.children else None
        if wants_module and child:
            return child
        if name in module.definitions:
            return Found(module, name)
        bound = self.look_up_binding(module, name, wants_module, seen)
        return bound or child or self.look_up_glob(module, name, wants_module, seen)

    def look_up_binding(self, module, name, wants_module, seen):
        """Returns what the `use` declarations that bind a name lead to, or None if there are none."""
        found = [self.resolve(module, use.path, wants_module, seen) for use in module.bound(name)]
        inside = [each for each in found if each is not EXTERNAL]
        # A name may be a module and an item at once.
        fitting = [each for each in inside if (each.item is None) == wants_module]
        return next(iter(fitting + inside + found), None)

    def look_up_glob(self, module, name, wants_module, seen):
        """Returns what a name means through the globs of a module, or None."""
        for use in module.bound("*"):
            glob = self.resolve(module, use.path, True, seen)
            if glob is not EXTERNAL and glob.item is None:
                found = self.look_up(glob.module, name, wants_module, seen)
                if found:
                    return found
        return None

    def named_module(self, module, path):
        """Returns the module directly under a crate's root that a path names, or None."""
        anchored = self.anchor(module, path)
        if not anchored and path[0] in self.libraries and path[0] not in module.children:
            anchored = self.libraries[path[0]], path[1:]
        start, rest = anchored or (module, path)
        is_named = start.parent is None and rest and rest[0] in start.children
        return rest[0] if is_named else None


def words_of_path(tokens, place, stop):
    """Returns the path of names that begins at a place and the place behind it."""
    path = [tokens[place].text]
    place += 1
    while place + 1 < stop and tokens[place].text == "::" and tokens[place + 1].is_word:
        path.append(tokens[place + 1].text)
        place += 2
    return tuple(path), place


def variant_places(tokens, start, stop):
    """Returns the places of the names of an enum's variants, which may be names of types too."""
    first = rust.keyword_place(tokens, rust.skip_attributes(tokens, start))
    if rust.text_at(tokens, first) != "enum":
        return set()
    while first < stop and tokens[first].text != "{":
        first += 1
    places, end = set(), rust.closing(tokens, first)
    place = rust.skip_attributes(tokens, first + 1)
    while place < end:
        places.add(place)
        place = rust.skip_attributes(tokens, max(rust.item_end(tokens, place), place + 1))
    return places


def starts_path(tokens, place):
    """Whether the word at a place may begin a path: it is no field, no method and no later name of a path."""
    if not tokens[place].is_word:
        return False
    before = rust.text_at(tokens, place - 1)
    is_field = before == "." and rust.text_at(tokens, place - 2) != "."
    return not is_field and before != "::" and before not in NAMING


def local_uses(module, start, stop):
    """Returns the `use` declarations inside an item, and the places that they cover."""
    tokens, uses, covered = module.source.tokens, [], set()
    for place in range(start, stop):
        if tokens[place].text == "use" and tokens[place].is_word and rust.text_at(tokens, place + 1) != "<":
            uses += modules.read_uses(module.source, place, is_public=False, is_test=module.is_test)
            covered.update(range(place, rust.item_end(tokens, place)))
    return uses, covered


class Collector:
    """Collects the imports of the modules of one package."""

    def __init__(self, resolver):
        self.resolver = resolver
        self.imports = {}

    def add(self, module, line, path, found, in_tests, text=None):
        """Keeps the import of a path, unless it leads to nothing of the package or is known already."""
        named = self.resolver.named_module(module, path)
        target, tops = None, {named} if named else set()
        if found is not EXTERNAL and found.item is not None:
            target = found.module.source.path
            tops.add(top_module(found.module))
        source, own = module.source.path, top_module(module)
        if target == source:
            target = None
        tops.discard(own)
        if target is None and not tops:
            return
        text = text or "::".join(path)
        key = (source, own, target, frozenset(tops), in_tests)
        self.imports.setdefault(key, Import(source, own, line, text, target, frozenset(tops), in_tests))

    def add_use(self, module, use):
        """Keeps the import of one path of a `use` declaration. Re-exports of a file's own children are none."""
        found = self.resolver.resolve(module, use.path, wants_module=use.name == "*")
        if use.is_public and self.leads_into(module, use.path, found):
            return
        if use.is_public and use.name == "*" and found is not EXTERNAL and found.item is None:
            found = Found(found.module, "*")
        self.add(module, use.line, use.path, found, use.is_test, use.text)

    def leads_into(self, module, path, found):
        """Whether a path of a module leads to a child of a module in the same file."""
        anchored = self.resolver.anchor(module, path)
        start, rest = anchored or (module, path)
        if start.source is module.source and rest and rest[0] in start.children:
            return True
        return found is not EXTERNAL and any(parent.source is module.source for parent in found.module.ancestors[1:])

    def add_module(self, module):
        """Keeps the imports of a module, without those of the modules inside it."""
        for use in module.uses:
            self.add_use(module, use)
        for start, stop in module.bodies:
            self.add_body(module, start, stop)

    def add_body(self, module, start, stop):
        """Keeps the imports of one item: its `use` declarations, and the paths in it."""
        tokens = module.source.tokens
        uses, covered = local_uses(module, start, stop)
        for use in uses:
            self.add_use(module, use)
        scope = dataclasses.replace(module, uses=uses + module.uses) if uses else module
        covered |= variant_places(tokens, start, stop)
        place = start
        while place < stop:
            place = rust.visibility_end(tokens, place)
            if place >= stop or place in covered or not starts_path(tokens, place):
                place += 1
                continue
            path, end = words_of_path(tokens, place, stop)
            self.add_path(scope, path, place, end)
            place = end

    def add_path(self, scope, path, place, end):
        """Keeps the import of a path in code that covers the tokens from `place` to `end`."""
        source = scope.source
        if len(path) == 1:
            following = rust.text_at(source.tokens, end)
            if not self.is_use_of_name(scope, path[0], following):
                return
        elif self.is_bound_item(scope, path[0]):
            return
        found = self.resolver.resolve(scope, path)
        in_tests = scope.is_test or source.in_tests[place]
        self.add(scope, source.tokens[place].line, path, found, in_tests)

    def is_bound_item(self, scope, name):
        """Whether a name is that of an item which a private `use` imports, so that its import is kept already."""
        bindings = scope.bound(name)
        if not bindings or any(use.is_public for use in bindings) or name in scope.children:
            return False
        found = self.resolver.look_up(scope, name, True, frozenset())
        return found is EXTERNAL or found is not None and found.item is not None

    def is_use_of_name(self, scope, name, following):
        """Whether a single name in code uses a re-export or a glob. Names of other `use` declarations are kept already.

        Small names count only when they are called, because they may be variables.
        """
        if name in {"crate", "self", "super", "Self"} or name in scope.definitions:
            return False
        if name[:1].islower() and following not in {"(", "!"}:
            return False
        bindings = scope.bound(name)
        return any(use.is_public for use in bindings) if bindings else bool(scope.bound("*"))


def collect(library, roots):
    """Returns the imports of a package in the order of files and lines.

    `roots` are its crates' root modules, of which `library` is the name of the first if that is a `lib.rs`.
    """
    libraries = {library: root for root in roots if root.source.path.name == "lib.rs"}
    collector = Collector(Resolver(libraries))
    for root in roots:
        for module in root.tree():
            collector.add_module(module)
    return sorted(collector.imports.values(), key=lambda each: (each.source, each.line, each.text))
