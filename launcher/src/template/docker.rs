//! The Dockerfile.

use super::input::TemplateInput;
use super::text::fill;

/// The version of libtorch that Admiral is built with, as in `ci/setup`.
const TORCH_VERSION: &str = "2.10.0";
const RUST_VERSION: &str = env!("CARGO_PKG_RUST_VERSION");

pub fn render(input: &TemplateInput) -> String {
    fill(include_str!("Dockerfile"), &[("image", &input.image), ("torch", TORCH_VERSION), ("rust", RUST_VERSION)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_has_the_libtorch_of_the_setup() {
        let setup = include_str!("../../../ci/setup");
        assert!(setup.contains(&format!("\ntorch_version={TORCH_VERSION}\n")));
    }
}
