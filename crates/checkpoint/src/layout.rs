//! The names of the folders and files in a checkpoint store.

use admiral_checkpoints_schema::Role;

/// The file that makes a folder a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The name of the manifest after a damaged checkpoint has been set aside.
pub(crate) const DAMAGED_MANIFEST: &str = "manifest.damaged.json";

/// The evaluation of a checkpoint, in its folder.
pub(crate) const EVALUATION: &str = "evaluation.json";

/// The file that names the newest checkpoint of a store.
pub(crate) const LATEST: &str = "latest.json";

/// The lease, which names the attempt that may write to the store.
pub(crate) const OWNER: &str = "owner.json";

/// The start of the name of a write probe's file. The ID of the attempt and a number follow.
const PROBE: &str = "admiral-probe-";

/// The number of hexadecimal digits of a random ID.
pub(crate) const ID_DIGITS: usize = 16;

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
///
/// The attempt is in the name: an attempt that was taken for dead, and continues, cannot overwrite files that its successor
/// has published.
pub(crate) fn tensor_file(role: Role, index: usize, count: usize, attempt_id: &str) -> String {
    format!("{}/model-{:05}-of-{count:05}-{attempt_id}.safetensors", role.folder(), index + 1)
}

/// Returns the name of the file of a write probe. `id` consists of [`ID_DIGITS`] hexadecimal digits.
pub(crate) fn probe_file(id: &str, number: usize) -> String {
    format!("{PROBE}{id}-{number:05}")
}

/// Returns the path of `file` in `folder`, which may be empty.
pub(crate) fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// Returns whether this version or an earlier one writes files with this path, which is relative to the store.
pub(crate) fn is_checkpoint_file(path: &str) -> bool {
    match path.split('/').collect::<Vec<_>>()[..] {
        [LATEST | OWNER] => true,
        [file] => is_probe(file),
        [step, _] | [step, _, _] => {
            let inner = path.split_once('/').map_or("", |(_, inner)| inner);
            step_of(step).is_some() && is_file_of_step(inner)
        }
        _ => false,
    }
}

/// Returns whether this version or an earlier one writes files with this path, which is relative to the folder of a step.
pub(crate) fn is_file_of_step(path: &str) -> bool {
    match path.split('/').collect::<Vec<_>>()[..] {
        [MANIFEST | DAMAGED_MANIFEST | EVALUATION] => true,
        [_role, file] => {
            let name = file.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
            name.is_some_and(|name| match name.split_once("-of-") {
                // Earlier versions named no attempt.
                Some((index, count)) => {
                    let (count, attempt) = count.split_once('-').map_or((count, None), |(a, b)| (a, Some(b)));
                    is_number(index) && is_number(count) && attempt.is_none_or(is_id)
                }
                None => is_number(name),
            })
        }
        _ => false,
    }
}

/// Returns whether this is the name of a file of a write probe of this version or an earlier one.
pub(crate) fn is_probe(name: &str) -> bool {
    let rest = name.strip_prefix(PROBE).or_else(|| name.strip_prefix("trial-"));
    let parts = rest.and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(id, number)| is_id(id) && number.len() == 5 && is_number(number))
}

/// Returns whether the text is a random ID, as [`random_id`](crate::attempt::random_id) makes it.
fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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
        let path = tensor_file(Role::Ema { rate: 0.9999 }, 0, 2, "0123456789abcdef");
        assert_eq!(path, "ema-0.9999/model-00001-of-00002-0123456789abcdef.safetensors");
        assert!(is_file_of_step(&path) && is_checkpoint_file(&join("step-000000020", &path)));
    }

    #[test]
    fn only_paths_of_checkpoints_are_recognized() {
        for path in [
            "latest.json",
            "owner.json",
            "admiral-probe-0123456789abcdef-00003",
            "trial-0123456789abcdef-00003",
            "step-000000020/manifest.json",
            "step-000000020/master/model-00001-of-00002.safetensors",
            "step-000000020/manifest.damaged.json",
            "step-000000020/evaluation.json",
            "step-1000000000/ema-0.9999/model-00001.safetensors",
        ] {
            assert!(is_checkpoint_file(path), "{path}");
        }
        for path in [
            "",
            "manifest.json",
            "evaluation.json",
            "other.json",
            "trial-",
            "trial-run-of-mine",
            "trial-2024-05",
            "trial-0123456789abcdef-05",
            "trial-1a2b-00003",
            "admiral-probe-notes-00001",
            "admiral-probe-0123456789abcdeF-00001",
            "step-20/manifest.json",
            "step-000000020/latest.json",
            "step-000000020/model-00001.safetensors",
            "step-000000020/master/model-.safetensors",
            "step-000000020/master/model-00001-of-.safetensors",
            "step-000000020/master/model-mine.safetensors",
            "step-000000020/master/model-00001-of-00002-mine.safetensors",
            "step-000000020/master/notes.txt",
            "step-000000020/master/other/model-00001.safetensors",
            "x/step-000000020/manifest.json",
            "latest.json/x",
        ] {
            assert!(!is_checkpoint_file(path), "{path}");
        }
    }
}
