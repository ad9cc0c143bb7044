//! The manifest of an Admiral checkpoint.
