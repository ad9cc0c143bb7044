//! The names of the folders and files in a checkpoint store.

use admiral_checkpoints_schema::Role;

/// The file that makes a folder a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The name of the manifest after a damaged checkpoint has been set aside.
pub(crate) const DAMAGED_MANIFEST: &str = "manifest.damaged.json";

/// The file that names the newest checkpoint of a store.
pub(crate) const LATEST: &str = "latest.json";

/// The lease, which names the attempt that may write to the store.
pub(crate) const OWNER: &str = "owner.json";

/// Returns the folder of a step: `step-000123000`.
pub(crate) fn step_folder(step: u64) -> String {
    format!("step-{step:09}")
}

/// Returns the step of a folder, or `None` if the name is not that of a step.
pub(crate) fn step_of(folder: &str) -> Option<u64> {
    let step = folder.strip_prefix("step-")?.parse().ok()?;
    (step_folder(step) == folder).then_some(step)
}

/// Returns the path, in the folder of its step, of the file that writer `index` of `count` writes.
pub(crate) fn tensor_file(role: Role, index: usize, count: usize) -> String {
    format!("{}/model-{:05}-of-{count:05}.safetensors", role.folder(), index + 1)
}

/// Returns the path of `file` in `folder`, which may be empty.
pub(crate) fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// Returns whether this version or an earlier one writes files with this path, which is relative to the store.
pub(crate) fn is_checkpoint_file(path: &str) -> bool {
    match path.split('/').collect::<Vec<_>>()[..] {
        [LATEST | OWNER] => true,
        // The file of a write probe: `trial-ATTEMPT-00000`.
        [file] => is_probe(file),
        [step, MANIFEST | DAMAGED_MANIFEST] => step_of(step).is_some(),
        [step, _role, file] => {
            let writer = file.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
            step_of(step).is_some() && writer.is_some_and(|numbers| numbers.split("-of-").all(is_number))
        }
        _ => false,
    }
}

/// Returns whether this is the name of a file of a write probe.
pub(crate) fn is_probe(name: &str) -> bool {
    name.strip_prefix("trial-").and_then(|rest| rest.rsplit_once('-')).is_some_and(|(_, rank)| is_number(rank))
}

/// Returns whether the text consists of decimal digits.
pub(crate) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_folder_encodes_its_step() {
        for step in [0, 20, 123_000, 999_999_999, 1_000_000_000] {
            assert_eq!(step_of(&step_folder(step)), Some(step));
        }
        for folder in ["step-20", "step-", "step-00000002x", "step-+00000020", "logs", "xstep-000000020"] {
            assert_eq!(step_of(folder), None, "{folder}");
        }
    }

    #[test]
    fn the_path_of_a_file_has_its_role_and_writer() {
        let path = tensor_file(Role::Ema { rate: 0.9999 }, 0, 2);
        assert_eq!(join("step-000000020", &path), "step-000000020/ema-0.9999/model-00001-of-00002.safetensors");
    }

    #[test]
    fn only_paths_of_checkpoints_are_recognized() {
        for path in [
            "latest.json",
            "owner.json",
            "trial-1a2b-00003",
            "step-000000020/manifest.json",
            "step-000000020/master/model-00001-of-00002.safetensors",
            "step-000000020/manifest.damaged.json",
            "step-1000000000/ema-0.9999/model-00001.safetensors",
        ] {
            assert!(is_checkpoint_file(path), "{path}");
        }
        for path in [
            "",
            "manifest.json",
            "other.json",
            "trial-",
            "trial-run-of-mine",
            "step-20/manifest.json",
            "step-000000020/latest.json",
            "step-000000020/model-00001.safetensors",
            "step-000000020/master/model-.safetensors",
            "step-000000020/master/model-00001-of-.safetensors",
            "step-000000020/master/model-mine.safetensors",
            "step-000000020/master/other/model-00001.safetensors",
            "x/step-000000020/manifest.json",
            "latest.json/x",
        ] {
            assert!(!is_checkpoint_file(path), "{path}");
        }
    }
}
