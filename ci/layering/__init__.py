"""The parts of ci/layers: it reads the workspace's packages and Rust sources, and checks what imports what."""
