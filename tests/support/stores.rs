//! What a place of checkpoints holds, on a folder or on the tests' S3 server, as Admiral's own reader sees it.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use admiral_checkpoint::{Location, Store};

/// Every tensor, as bytes by role and name.
pub type Tensors = BTreeMap<String, Vec<u8>>;

/// The place `s3://bucket/prefix` on the server that listens at `port`.
pub fn on_s3(port: u16, prefix: &str) -> Store {
    let backend = crate::s3::builder(port).build().unwrap();
    Store::over(Arc::new(backend), prefix.into(), &format!("s3://bucket/{prefix}")).unwrap()
}

/// A folder, which must be there.
pub fn in_folder(folder: &Path) -> Store {
    Store::open(&Location::Folder(folder.to_owned())).unwrap()
}

/// The steps of the published checkpoints, ascending; each must be whole.
pub fn verified_steps(store: &Store) -> Vec<u64> {
    let steps = store.list().unwrap();
    for &step in &steps {
        let damage = store.checkpoint(step).unwrap().verify().unwrap();
        assert!(damage.is_empty(), "{damage:?}");
    }
    steps
}

/// The tensors of a published checkpoint, which must be whole.
pub fn tensors(store: &Store, step: u64) -> Tensors {
    let checkpoint = store.checkpoint(step).unwrap();
    let mut tensors = Tensors::new();
    for role in checkpoint.manifest().roles() {
        for (name, (_, values)) in checkpoint.load_role(role).unwrap() {
            let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
            tensors.insert(format!("{}/{name}", role.folder()), bytes);
        }
    }
    tensors
}
