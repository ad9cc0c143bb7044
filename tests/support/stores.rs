//! What a place of checkpoints holds, on a folder or on the tests' S3 server, as Admiral's own reader sees it.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use admiral::checkpoint::{Location, Store};
use object_store::aws::AmazonS3Builder;

/// Every tensor, as bytes by role and name.
pub type Tensors = BTreeMap<String, Vec<u8>>;

/// What sends a run to the S3 server that listens at `port`.
pub fn environment(port: u16) -> [(&'static str, String); 5] {
    [
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
    ]
}

/// The place `s3://bucket/prefix` on the server that listens at `port`.
pub fn on_s3(port: u16, prefix: &str) -> Store {
    let backend = AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_bucket_name("bucket")
        .build()
        .unwrap();
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
