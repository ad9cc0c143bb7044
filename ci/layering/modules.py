"""The tree of modules of a crate: what each module declares, imports and defines, read from its source files."""

import dataclasses
import pathlib

from layering import rust

# Items that give their module a name.
NAMED_ITEMS = {"struct", "enum", "union", "trait", "fn", "const", "static", "type", "macro_rules"}


@dataclasses.dataclass(frozen=True)
class Use:
    """One path of a `use` declaration. `name` is what it is bound to: None for `as _`, "*" for a glob."""

    path: tuple[str, ...]
    name: str | None
    line: int
    is_public: bool
    is_test: bool

    @property
    def text(self):
        """The path as it is written, without the braces around it."""
        return "::".join([*self.path, "*"] if self.name == "*" else self.path)


@dataclasses.dataclass(eq=False)
class Source:
    """A source file: its tokens, and which of them exist in tests only."""

    path: pathlib.Path
    tokens: list[rust.Token]
    in_tests: list[bool]

    @classmethod
    def read(cls, path):
        """Reads a source file."""
        tokens = rust.tokenize(path.read_text())
        return cls(path, tokens, rust.test_places(tokens))


@dataclasses.dataclass(eq=False)
class Module:
    """A module of a crate. `bodies` are the ranges of its tokens that are neither `use` declarations nor modules."""

    name: str
    parent: "Module | None"
    source: Source
    folder: pathlib.Path
    is_test: bool
    is_inline: bool = False
    children: dict[str, "Module"] = dataclasses.field(default_factory=dict)
    definitions: set[str] = dataclasses.field(default_factory=set)
    uses: list[Use] = dataclasses.field(default_factory=list)
    bodies: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def bound(self, name):
        """Returns the `use` declarations that bind `name`."""
        return [use for use in self.uses if use.name == name]

    @property
    def root(self):
        """The root module of the crate."""
        return self if self.parent is None else self.parent.root

    @property
    def ancestors(self):
        """This module and all modules around it, from the inside."""
        return [self] if self.parent is None else [self, *self.parent.ancestors]

    def tree(self):
        """Yields this module and all modules inside it."""
        yield self
        for child in self.children.values():
            yield from child.tree()


def use_paths(tokens, place, prefix):
    """Yields (path, name, line) for a use tree that begins at `place`, and returns the place behind it."""
    path, line = list(prefix), tokens[place].line
    if rust.text_at(tokens, place) == "::":
        # A path into other crates only: no module of this crate has an empty name.
        path.append("")
        place += 1
    while place < len(tokens):
        token = tokens[place]
        following = rust.text_at(tokens, place + 1)
        if token.text == "$":
            # `$crate` in a macro.
            place += 1
            continue
        if token.text == "{":
            return (yield from use_list(tokens, place, path))
        if token.text == "*":
            yield tuple(path), "*", token.line
            return place + 1
        if not (token.text == "self" and path):
            path.append(token.text)
        line = token.line
        if following == "::":
            place += 2
        elif following == "as":
            name = rust.text_at(tokens, place + 2)
            yield tuple(path), None if name == "_" else name, line
            return place + 3
        else:
            yield tuple(path), path[-1], line
            return place + 1
    return place


def use_list(tokens, place, prefix):
    """Yields what `use_paths` yields for the list in braces at `place`, and returns the place behind it."""
    end = rust.closing(tokens, place)
    place += 1
    while place < end:
        if tokens[place].text == ",":
            place += 1
        else:
            place = yield from use_paths(tokens, place, prefix)
    return end + 1


def read_uses(source, place, is_public, is_test):
    """Returns the paths of the `use` declaration whose keyword is at `place`."""
    is_test = is_test or source.in_tests[place]
    return [
        Use(path, name, line, is_public, is_test) for path, name, line in use_paths(source.tokens, place + 1, ())
    ]


def path_attribute(tokens, start, end):
    """Returns the file that a `#[path = ".."]` among the attributes between two places names, or None."""
    for place in range(start, end):
        if tokens[place].text == "path" and rust.text_at(tokens, place + 1) == "=":
            return rust.text_at(tokens, place + 2).strip('"')
    return None


def child_file(module, name, named_path):
    """Returns the file of `mod name;` in a module, or None if there is none."""
    if named_path is not None:
        base = module.folder if module.is_inline else module.source.path.parent
        candidates = [base / named_path]
    else:
        candidates = [module.folder / f"{name}.rs", module.folder / name / "mod.rs"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    return None


def file_module(name, parent, path, is_test, owns_folder=False):
    """Reads the module of a source file and all modules inside it.

    Its children lie in the file's folder if the module `owns_folder` or is a `mod.rs`, else in a folder of its name.
    """
    folder = path.parent if owns_folder or path.name == "mod.rs" else path.parent / path.stem
    module = Module(name, parent, Source.read(path), folder, is_test)
    read_items(module, 0, len(module.source.tokens))
    return module


def read_child(module, start, place, end):
    """Reads the module whose item begins at `start`, with the keyword `mod` at `place`, into its parent `module`."""
    tokens = module.source.tokens
    name = tokens[place + 1].text
    is_test = module.is_test or module.source.in_tests[place]
    if rust.text_at(tokens, place + 2) == "{":
        child = Module(name, module, module.source, module.folder / name, is_test, is_inline=True)
        module.children[name] = child
        read_items(child, place + 3, end - 1)
        return
    named_path = path_attribute(tokens, start, place)
    path = child_file(module, name, named_path)
    # A module may be declared twice, for two platforms; the tests' one must not replace the other.
    if path is not None and not (is_test and name in module.children):
        module.children[name] = file_module(name, module, path, is_test, owns_folder=named_path is not None)


def foreign_or_macro_names(tokens, start, end):
    """Yields the names of items inside an `extern` block or a macro's arguments, as in `thread_local!`."""
    for place in range(start, end - 1):
        if tokens[place].text in NAMED_ITEMS and tokens[place + 1].is_word:
            yield tokens[place + 1].text


def item_name(tokens, place):
    """Returns the name of the item whose keyword is at `place`."""
    place += 1
    while rust.text_at(tokens, place) in {"mut", "!"}:
        place += 1
    return rust.text_at(tokens, place)


def read_items(module, start, stop):
    """Reads the items between two places of a file into their module."""
    source, tokens = module.source, module.source.tokens
    while start < stop:
        first = rust.skip_attributes(tokens, start)
        place = rust.keyword_place(tokens, first)
        # Behind the attributes of a file there may be nothing.
        end = max(min(rust.item_end(tokens, start), stop), start + 1)
        keyword = rust.text_at(tokens, place)
        if keyword == "mod" and place < stop:
            read_child(module, start, place, end)
        elif keyword == "use" and place < stop:
            is_public = rust.text_at(tokens, first) == "pub"
            module.uses += read_uses(source, place, is_public, module.is_test)
        else:
            if keyword in NAMED_ITEMS:
                module.definitions.add(item_name(tokens, place))
            elif keyword != "impl":
                module.definitions.update(foreign_or_macro_names(tokens, place, end))
            module.bodies.append((start, end))
        start = end


def crate_roots(folder):
    """Returns the root files of a package's crates under src/: its library and its programs."""
    source = folder / "src"
    programs = [*sorted(source.glob("bin/*.rs")), *sorted(source.glob("bin/*/main.rs"))]
    return [path.resolve() for path in [source / "lib.rs", source / "main.rs", *programs] if path.is_file()]


def read_crates(folder):
    """Returns the root modules of a package's crates; the library is the first, if there is one."""
    return [file_module(path.stem, None, path, is_test=False, owns_folder=True) for path in crate_roots(folder)]
