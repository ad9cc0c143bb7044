//! The checkpoints of a folder or of the tests' S3 server, as Admiral's own reader sees them.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use admiral_checkpoint::Catalog;
use admiral_storage::{Location, Store, StoreOptions};

/// The bytes of tensors by `role/name`.
pub type Tensors = BTreeMap<String, Vec<u8>>;

/// The checkpoints at `s3://bucket/prefix` on the server at `port`.
pub fn on_s3(port: u16, prefix: &str) -> Catalog {
    let backend = crate::s3::builder(port).build().unwrap();
    Catalog::new(&Store::from_backend(Arc::new(backend), prefix.into(), &format!("s3://bucket/{prefix}")).unwrap())
}

/// The checkpoints in a folder, which must exist.
pub fn in_folder(folder: &Path) -> Catalog {
    Catalog::new(&Store::open(&Location::Folder(folder.to_owned()), &StoreOptions::default()).unwrap())
}

/// The steps of the published checkpoints, ascending. Each checkpoint must be undamaged.
pub fn verified_steps(catalog: &Catalog) -> Vec<u64> {
    let steps = catalog.steps().unwrap();
    for &step in &steps {
        let damage = catalog.checkpoint(step).unwrap().verify().unwrap();
        assert!(damage.is_empty(), "{damage:?}");
    }
    steps
}

/// The tensors of a published checkpoint, which must be undamaged.
pub fn tensors(catalog: &Catalog, step: u64) -> Tensors {
    let checkpoint = catalog.checkpoint(step).unwrap();
    let mut tensors = Tensors::new();
    for role in checkpoint.manifest().roles() {
        for (name, (_, values)) in checkpoint.load_role(role).unwrap() {
            let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
            tensors.insert(format!("{}/{name}", role.folder()), bytes);
        }
    }
    tensors
}
