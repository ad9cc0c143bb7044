#!/usr/bin/env python3
"""Checks that each name which a script of ci/ imports from another one exists there.

The benchmarks need packages that no test installs, so nothing else would notice a name that is gone.
"""

import ast
import pathlib
import unittest

CI = pathlib.Path(__file__).resolve().parent


def scripts():
    """Returns the Python scripts of ci/, each with its syntax tree."""
    for path in sorted(CI.iterdir()):
        if path.is_file() and (path.suffix == ".py" or path.read_bytes().startswith(b"#!/usr/bin/env python3")):
            yield path, ast.parse(path.read_text(), str(path))


def defined(tree):
    """Returns the names that a module defines or imports at its top."""
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        else:
            stored = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            names.update(part.id for part in stored)
    return names


class Imports(unittest.TestCase):
    def test_names_exist(self):
        trees = dict(scripts())
        modules = {path.stem: defined(tree) for path, tree in trees.items()}
        imported = 0
        for path, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module in modules:
                    for alias in node.names:
                        imported += 1
                        self.assertIn(alias.name, modules[node.module], f"{path.name} imports it from {node.module}")
        self.assertGreater(imported, 10)


if __name__ == "__main__":
    unittest.main()
