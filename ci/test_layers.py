#!/usr/bin/env python3
"""Tests of ci/layers on small workspaces in temporary folders."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import unittest

sys.dont_write_bytecode = True

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))


def load_script():
    """Returns ci/layers as a module; its file name has no suffix."""
    loader = importlib.machinery.SourceFileLoader("layers", str(FOLDER / "layers"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("layers", loader))
    loader.exec_module(module)
    return module


layers = load_script()

from layering import graph, rust  # noqa: E402

PACKAGES = [{"top"}, {"upper"}, {"lower"}]
MODULES = {"top": [{"main"}, {"train"}, {"sample", "evaluate"}, {"model"}, {"ops"}]}


def manifest(name, more=""):
    """Returns the text of a package's Cargo.toml."""
    return f'[package]\nname = "{name}"\nversion = "0.1.0"\n{more}'


def root_manifest(more=""):
    """Returns the text of the workspace's Cargo.toml, which is that of the package `top` as well."""
    return '[workspace]\nmembers = [".", "crates/*"]\n' + manifest("top", more)


class Workspace(unittest.TestCase):
    """A test with a workspace in a temporary folder."""

    def violations(self, files, packages=PACKAGES, modules=MODULES):
        """Writes a workspace of the given files, and returns what ci/layers finds there."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {"Cargo.toml": root_manifest(), **files}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(textwrap.dedent(text))
            return layers.check(root, packages, modules, {"top"})[0]

    def library_violations(self, **files):
        """Returns what is found in the package `lower`; `a__b` stands for src/a/b.rs."""
        sources = {f"crates/lower/src/{name.replace('__', '/')}.rs": text for name, text in files.items()}
        return self.violations({"crates/lower/Cargo.toml": manifest("lower"), **sources})

    def assert_one(self, found, *parts):
        """Fails unless there is one violation, which contains all of `parts`."""
        self.assertEqual(len(found), 1, found)
        for part in parts:
            self.assertIn(part, found[0])


class Packages(Workspace):
    """Rules on packages."""

    def crates(self, upper="", lower="", top=""):
        """Returns what is found in three packages with the given ends of their manifests."""
        return self.violations(
            {
                "Cargo.toml": root_manifest(top),
                "crates/upper/Cargo.toml": manifest("upper", upper),
                "crates/lower/Cargo.toml": manifest("lower", lower),
            }
        )

    def test_dependencies_on_lower_packages_are_allowed(self):
        found = self.crates(
            top='[dependencies]\nupper = { path = "crates/upper" }\nserde = "1"\n',
            upper='[dependencies]\nlower = { path = "../lower" }\n[build-dependencies]\ncc = "1"\n',
        )
        self.assertEqual(found, [])

    def test_a_dependency_on_a_higher_package_is_reported(self):
        found = self.crates(lower='[dependencies]\nserde = "1"\nupper = { path = "../upper" }\n')
        self.assert_one(found, "crates/lower/Cargo.toml:6: lower depends on upper")

    def test_an_inherited_and_renamed_dependency_is_followed(self):
        found = self.crates(
            top='[workspace.dependencies]\nname = { path = "crates/upper", package = "upper" }\n',
            lower="[dependencies]\nname.workspace = true\n",
        )
        self.assert_one(found, "crates/lower/Cargo.toml:5: lower depends on upper")

    def test_a_dependency_of_one_target_is_followed(self):
        found = self.crates(lower='[target."cfg(unix)".dependencies]\nupper = { path = "../upper" }\n')
        self.assert_one(found, "crates/lower/Cargo.toml:5: lower depends on upper")

    def test_a_circle_of_packages_is_reported(self):
        found = self.crates(
            upper='[dependencies]\nlower = { path = "../lower" }\n',
            lower='[build-dependencies]\nupper = { path = "../upper" }\n',
        )
        self.assertEqual(len(found), 2)
        self.assertIn("circle of packages: lower (build-dependency) -> upper -> lower", found[0])
        self.assertIn("(crates/lower/Cargo.toml:5, crates/upper/Cargo.toml:5)", found[0])

    def test_a_circle_through_a_dev_dependency_is_reported(self):
        found = self.crates(
            upper='[dependencies]\nlower = { path = "../lower" }\n',
            lower='[dev-dependencies]\nupper = { path = "../upper" }\n',
        )
        self.assertIn("lower (dev-dependency) -> upper -> lower", found[0])
        self.assertIn("lower depends on upper (dev-dependency)", found[1])

    def test_a_package_without_a_place_is_reported(self):
        found = self.violations({"crates/other/Cargo.toml": manifest("other")})
        self.assert_one(found, "crates/other/Cargo.toml:1: the package other has no place")


class Libtorch(Workspace):
    """The rule that only the root package links libtorch."""

    def test_the_root_package_may_use_libtorch(self):
        found = self.violations(
            {
                "Cargo.toml": root_manifest('[dependencies]\ntch = "0.23"\n'),
                "src/main.rs": "use tch::Tensor;\nfn main() {}\n",
            }
        )
        self.assertEqual(found, [])

    def test_a_dependency_on_libtorch_is_reported(self):
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"]:
            text = manifest("lower", f'[{kind}]\nbindings = {{ package = "torch-sys", version = "0.23" }}\n')
            found = self.violations({"crates/lower/Cargo.toml": text})
            self.assert_one(found, "crates/lower/Cargo.toml:5: lower must not depend on libtorch: lower -> torch-sys")

    def test_a_dependency_on_libtorch_through_another_package_is_reported(self):
        found = self.violations(
            {
                "crates/upper/Cargo.toml": manifest("upper", '[dependencies]\nlower = { path = "../lower" }\n'),
                "crates/lower/Cargo.toml": manifest("lower", '[dependencies]\ntch = "0.23"\n'),
            }
        )
        self.assertEqual(len(found), 2)
        self.assertIn("crates/upper/Cargo.toml:5: upper must not depend on libtorch: upper -> lower -> tch", found[1])

    def test_the_dev_dependencies_of_another_package_are_not_linked(self):
        found = self.violations(
            {
                "crates/upper/Cargo.toml": manifest("upper", '[dependencies]\nlower = { path = "../lower" }\n'),
                "crates/lower/Cargo.toml": manifest("lower", '[dev-dependencies]\ntch = "0.23"\n'),
            }
        )
        self.assert_one(found, "lower -> tch")

    def test_a_name_of_libtorch_in_source_is_reported(self):
        files = {
            "crates/lower/Cargo.toml": manifest("lower"),
            "crates/lower/src/lib.rs": "// tch::Tensor\nfn f() -> &str { \"tch::Tensor\" }\nfn g(x: tch::Tensor) {}\n",
            "crates/lower/tests/a.rs": "use torch_sys as sys;\n",
        }
        found = self.violations(files)
        self.assertEqual(len(found), 2)
        self.assertIn("crates/lower/src/lib.rs:3: lower must not use libtorch: tch", found[0])
        self.assertIn("crates/lower/tests/a.rs:1: lower must not use libtorch: torch_sys", found[1])


class FileCircles(Workspace):
    """The rule on circles of files and of modules."""

    def test_siblings_that_import_each_other_are_reported(self):
        found = self.library_violations(
            lib="mod a;\nmod b;\n",
            a="use crate::b::B;\npub struct A(B);\n",
            b="pub struct B;\nimpl B {\n    fn f(x: super::a::A) {}\n}\n",
        )
        self.assertEqual(len(found), 2)
        self.assertIn(
            "crates/lower/src/a.rs:1: circle of modules: a (crates/lower/src/a.rs:1 crate::b::B) -> "
            "b (crates/lower/src/b.rs:3 super::a::A) -> a",
            found[0],
        )
        self.assertIn(
            "crates/lower/src/a.rs:1: circle of files: crates/lower/src/a.rs:1 (crate::b::B) -> "
            "crates/lower/src/b.rs:3 (super::a::A) -> crates/lower/src/a.rs",
            found[1],
        )

    def test_a_circle_of_three_files_is_reported_once(self):
        found = self.library_violations(
            lib="mod x;\n",
            x__mod="mod a;\nmod b;\nmod c;\n",
            x__a="use super::b::B;\npub struct A;\n",
            x__b="use super::c::C;\npub struct B;\n",
            x__c="use super::a::A;\npub struct C;\n",
        )
        self.assert_one(found, "src/x/a.rs:1 (super::b::B) -> crates/lower/src/x/b.rs:1 (super::c::C) -> ")

    def test_circles_in_inline_and_nested_modules_are_reported(self):
        found = self.library_violations(
            lib="mod x;\n",
            x="mod deep {\n    pub mod a;\n    pub mod b;\n}\n",
            x__deep__a="use super::b;\nfn f() { b::g() }\npub fn h() {}\n",
            x__deep__b="pub fn g() { crate::x::deep::a::h() }\n",
        )
        self.assert_one(found, "src/x/deep/a.rs:2 (b::g) -> crates/lower/src/x/deep/b.rs:1 (crate::x::deep::a::h)")

    def test_a_parent_that_declares_and_re_exports_is_no_circle(self):
        found = self.library_violations(
            lib="mod x;\npub use x::{A as Renamed, B};\n",
            x__mod="""\
                mod a;
                mod b;
                mod c;
                pub use a::A;
                pub(crate) use b::*;
                pub use self::c::C as D;
                pub struct Own;
                """,
            x__a="use super::{B, Own};\npub struct A;\n",
            x__b="use super::{D, Own};\npub struct B;\n",
            x__c="use super::Own;\npub struct C;\n",
        )
        self.assertEqual(found, [])

    def test_a_parent_that_uses_a_child_which_uses_it_is_reported(self):
        for code in ["use a::A;", "fn f() { a::g() }", "fn f() { self::a::g() }", "fn f() { use a::A; }"]:
            found = self.library_violations(
                lib="mod x;\n",
                x__mod=f"mod a;\npub struct Own;\n{code}\n",
                x__a="use super::Own;\npub struct A;\npub fn g() {}\n",
            )
            self.assert_one(found, "circle of files: crates/lower/src/x/a.rs:1 (super::Own)", "src/x/mod.rs:3")

    def test_a_parent_that_uses_its_re_export_is_reported(self):
        files = {
            "lib": "mod x;\n",
            "x__a": "use super::Own;\npub struct A;\npub fn run() {}\n",
        }
        for code in ["fn f(a: A) {}", "fn f() { A::new() }", "fn f() { run() }", "impl From<A> for Own {}"]:
            text = f"mod a;\npub use a::{{A, run}};\npub struct Own;\n{code}\n"
            self.assert_one(self.library_violations(x__mod=text, **files), "src/x/mod.rs:4")

    def test_names_that_only_look_like_a_re_export_are_no_circle(self):
        found = self.library_violations(
            lib="mod x;\n",
            x__mod="""\
                mod a;
                pub use a::{A, run};
                pub struct Own { run: u8 }
                enum Kind { A(u8), #[allow(x)] Other }
                trait Runs { type A; fn run(&self); }
                fn f(own: Own) { let run = own.run; own.run(); Kind::A(1); }
                """,
            x__a="use super::Own;\npub struct A;\npub fn run() {}\n",
        )
        self.assertEqual(found, [])

    def test_an_import_counts_for_the_file_that_defines_the_item(self):
        # b imports x's own item, and a's item through x; only a circle of b with a would be one.
        found = self.library_violations(
            lib="mod b;\nmod x;\n",
            b="use crate::x::{A, Own, again::Other};\npub struct B;\n",
            x__mod="mod a;\nmod c;\npub mod again { pub use super::c::*; }\npub use a::A;\npub struct Own;\n",
            x__a="pub struct A;\n",
            x__c="use crate::b::B;\npub struct Other;\n",
        )
        self.assertEqual(len(found), 2)
        self.assertIn("circle of modules: b", found[0])
        self.assertIn("src/b.rs:1 (crate::x::again::Other) -> crates/lower/src/x/c.rs:1 (crate::b::B)", found[1])

    def test_a_glob_import_counts_where_its_names_are_used(self):
        files = {
            "lib": "mod a;\nmod b;\n",
            "b": "use crate::a::A;\npub struct B;\npub struct C;\n",
        }
        self.assertEqual(self.library_violations(a="use crate::b as other;\npub struct A;\n", **files)[1:], [])
        found = self.library_violations(a="use crate::b::*;\npub struct A;\nfn f(c: C) {}\n", **files)
        self.assertIn("src/a.rs:3 (C) -> crates/lower/src/b.rs:1", found[1])

    def test_imports_in_tests_make_no_circle(self):
        found = self.library_violations(
            lib="mod a;\nmod b;\n",
            a="use crate::b::B;\npub struct A;\n",
            b="""\
                pub struct B;
                impl B { #[cfg(test)] fn a(a: crate::a::A) {} }
                #[cfg(test)]
                use crate::a::A;
                #[test]
                fn f() { crate::a::A; }
                #[cfg(test)]
                mod tests { use crate::a::A; }
                #[cfg(all(test, unix))]
                mod more;
                """,
            b__more="use crate::a::A;\n",
        )
        self.assertEqual(found, [])

    def test_code_that_is_not_for_tests_only_makes_a_circle(self):
        for attribute in ["#[cfg(not(test))]", "#[cfg(any(test, unix))]", "#[cfg_attr(not(test), allow(x))]"]:
            found = self.library_violations(
                lib="mod a;\nmod b;\n",
                a="use crate::b::B;\npub struct A;\n",
                b=f"pub struct B;\n{attribute}\nuse crate::a::A;\n",
            )
            self.assertIn("src/b.rs:3", found[1])

    def test_text_that_is_no_code_is_ignored(self):
        found = self.library_violations(
            lib="mod a;\nmod b;\n",
            a="use crate::b::B;\npub struct A;\n",
            b="""\
                pub struct B; // crate::a::A
                /* crate::a::A /* nested */ crate::a::A */
                /// [`crate::a::A`]
                const TEXT: &str = "crate::a::A \\" crate::a::A";
                const RAW: &str = r#"crate::a::A " crate::a::A"#;
                fn f<'a>(c: char) { c == '"'; c == '\\''; }
                pub(in crate::b) struct C;
                """,
        )
        self.assertEqual(found, [])

    def test_a_module_with_a_path_attribute_is_read(self):
        found = self.library_violations(
            lib='mod a;\n#[path = "odd/name.rs"]\nmod b;\n',
            a="use crate::b::B;\npub struct A;\n",
            odd__name="mod inner;\npub struct B(inner::C);\nuse crate::a::A;\n",
            odd__inner="pub struct C;\n",
        )
        self.assertEqual(len(found), 2)
        self.assertIn("src/odd/name.rs:3", found[1])

    def test_a_name_that_is_a_module_and_a_function_is_resolved(self):
        found = self.library_violations(
            lib="mod x;\nmod b;\n",
            x__mod="mod launch;\npub use launch::launch;\n",
            x__launch="pub fn launch() { crate::b::f() }\n",
            b="use crate::x::launch;\npub fn f() {}\n",
        )
        self.assertIn("src/b.rs:1 (crate::x::launch) -> crates/lower/src/x/launch.rs:1 (crate::b::f)", found[1])

    def test_a_file_that_no_module_declares_is_reported(self):
        found = self.library_violations(lib="mod a;\n", a="", b="")
        self.assert_one(found, "crates/lower/src/b.rs:1: no module declares this file")


class ModuleLayers(Workspace):
    """The rule on the layers of the root package's modules."""

    def test_imports_of_lower_modules_are_allowed(self):
        found = self.violations(
            {
                "src/lib.rs": "pub mod model;\npub mod ops;\npub mod train;\n",
                "src/main.rs": "use top::train;\nfn main() { train::run(); top::ops::f() }\n",
                "src/train/mod.rs": "use crate::{model::{self, Model}, ops};\npub fn run() {}\n",
                "src/model.rs": "use super::ops::f;\npub struct Model;\n",
                "src/ops.rs": "pub fn f() {}\n",
            }
        )
        self.assertEqual(found, [])

    def test_an_import_of_a_higher_module_is_reported(self):
        for code in ["use crate::train::run;", "use super::train;", "fn g() { crate::train::run() }"]:
            found = self.violations(
                {
                    "src/lib.rs": "pub mod ops;\npub mod train;\n",
                    "src/train.rs": "pub fn run() {}\n",
                    "src/ops.rs": f"\n{code}\n",
                }
            )
            self.assert_one(found, "src/ops.rs:2: ops imports ", "train is not in a layer below ops")

    def test_an_import_of_the_same_layer_is_reported(self):
        found = self.violations(
            {
                "src/lib.rs": "pub mod sample;\npub mod evaluate;\n",
                "src/sample.rs": "use crate::evaluate::{f, g};\n",
                "src/evaluate.rs": "pub fn f() {}\npub fn g() {}\n",
            }
        )
        self.assert_one(found, "src/sample.rs:1: sample imports crate::evaluate::f")

    def test_an_upward_import_through_the_library_root_is_reported(self):
        found = self.violations(
            {
                "src/lib.rs": "pub mod ops;\npub mod train;\npub use train::run;\n",
                "src/train.rs": "pub fn run() {}\n",
                "src/ops.rs": "use crate::run;\n",
            }
        )
        self.assert_one(found, "src/ops.rs:1: ops imports crate::run, but train is not in a layer below ops")

    def test_an_upward_import_in_tests_is_reported(self):
        found = self.violations(
            {
                "src/lib.rs": "pub mod ops;\npub mod train;\n",
                "src/train.rs": "use crate::ops;\npub fn run() {}\n",
                "src/ops.rs": "#[cfg(test)]\nmod tests {\n    use crate::train::run;\n}\n",
            }
        )
        self.assert_one(found, "src/ops.rs:3: ops imports crate::train::run in tests")

    def test_a_module_without_a_place_is_reported(self):
        found = self.violations(
            {
                "src/lib.rs": "pub mod ops;\npub mod other;\n#[cfg(test)]\nmod emulator;\n",
                "src/ops.rs": "",
                "src/other/mod.rs": "",
                "src/emulator.rs": "",
            }
        )
        self.assert_one(found, "src/other/mod.rs:1: the module other has no place")


class Parts(unittest.TestCase):
    """The parts that the rules are made of."""

    def test_a_token_keeps_its_line(self):
        tokens = rust.tokenize("a /* \n /* */ \n */ b\n\"x\ny\" 'c' 'life r#type r#\"\"\"# 1..2 ::")
        found = [(token.text, token.line) for token in tokens if token.kind != "string"]
        last = ["'c'", "'life", "type", "1", ".", ".", "2", "::"]
        self.assertEqual(found, [("a", 1), ("b", 3), *((text, 5) for text in last)])

    def test_an_item_ends_at_its_semicolon_or_block(self):
        for item in [
            "const A: [u8; 2] = { [1, 2] };",
            "pub(crate) const unsafe fn f<A, B>(a: [u8; 2]) -> B where A: Into<B> { ; }",
            "#[cfg(x)] struct A<T, U>(T, U);",
            'extern "C" { fn f(); }',
            'pub extern "C" fn f(a: u8, b: u8) { ; }',
            "field: (u8, u8),",
            "thread_local! { static A: u8 = 1; }",
        ]:
            tokens = rust.tokenize(item + " rest;")
            self.assertEqual(rust.item_end(tokens, 0), len(tokens) - 2, item)

    def test_each_circle_is_found_once(self):
        edges = {"a": {"b", "d"}, "b": {"c", "a"}, "c": {"a"}, "d": {"d"}, "e": {"a"}}
        self.assertEqual(graph.circles(edges), [("d",), ("a", "b"), ("a", "b", "c")])


class Script(unittest.TestCase):
    """The exit code and the output."""

    def run_script(self, source):
        """Runs ci/layers on a workspace of one package with one file."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "src").mkdir()
            (root / "Cargo.toml").write_text("[workspace]\n" + manifest("admiral"))
            (root / "src/main.rs").write_text(source)
            return subprocess.run([FOLDER / "layers", root], capture_output=True, text=True, check=False)

    def test_a_workspace_without_violations_prints_a_summary(self):
        done = self.run_script("fn main() {}\n")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "layers: 1 packages, 1 files: no circles, and every import goes down\n")

    def test_violations_go_to_stderr_and_fail(self):
        done = self.run_script("mod strange {}\nfn main() {}\n")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertTrue(done.stderr.startswith("layers: src/main.rs:1: the module strange has no place"))


if __name__ == "__main__":
    unittest.main()
