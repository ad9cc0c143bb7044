//! The names of a checkpoint's folders and files.

use admiral_checkpoints_schema::Role;

/// The file that makes a folder a checkpoint.
pub(super) const MANIFEST: &str = "manifest.json";

/// What the manifest of a damaged checkpoint is called once it has been set aside.
pub(super) const DAMAGED_MANIFEST: &str = "manifest.damaged.json";

/// The file that names the newest checkpoint of a place.
pub(super) const LATEST: &str = "latest.json";

/// The file that names the run which writes to a place.
pub(super) const OWNER: &str = "owner.json";

/// The folder of a step: `step-000123000`.
pub(super) fn step_folder(step: u64) -> String {
    format!("step-{step:09}")
}

/// The step of a folder; none for a folder of another name.
pub(super) fn step_of(folder: &str) -> Option<u64> {
    let step = folder.strip_prefix("step-")?.parse().ok()?;
    (step_folder(step) == folder).then_some(step)
}

/// The path of a file in its step's folder, for the writer of `index` among `count`.
pub(super) fn tensor_file(role: Role, index: usize, count: usize) -> String {
    format!("{}/model-{:05}-of-{count:05}.safetensors", role.folder(), index + 1)
}

/// `file` in `folder`, which may be empty.
pub(super) fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_folders_name_each_other() {
        for step in [0, 20, 123_000, 999_999_999, 1_000_000_000] {
            assert_eq!(step_of(&step_folder(step)), Some(step));
        }
        for folder in ["step-20", "step-", "step-00000002x", "step-+00000020", "logs", "xstep-000000020"] {
            assert_eq!(step_of(folder), None, "{folder}");
        }
    }

    #[test]
    fn a_file_says_its_role_and_its_place_among_the_writers() {
        let path = tensor_file(Role::Ema { rate: 0.9999 }, 0, 2);
        assert_eq!(join("step-000000020", &path), "step-000000020/ema-0.9999/model-00001-of-00002.safetensors");
    }
}
