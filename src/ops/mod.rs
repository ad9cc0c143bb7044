//! Operations that libtorch lacks or that Admiral fuses: one Rust face each.
