//! What writers leave behind that die while they write: uploads in parts that nobody completes, whose parts a bucket
//! keeps and bills without showing them, and the staging files of a folder.
//!
//! Both are removed only under a checkpoint's own names, because a place may lie in a bucket or a folder with other
//! things in it; and only by a run that owns the place, because those of a run at work look the same.

mod files;
mod listing;
mod uploads;

pub(super) use files::remove_staging_files;
pub(super) use uploads::Uploads;

use super::layout::{DAMAGED_MANIFEST, LATEST, MANIFEST, OWNER, step_of};

/// Whether a path, from a place's root, is one that this version or an earlier one writes.
fn is_checkpoint_file(path: &str) -> bool {
    match path.split('/').collect::<Vec<_>>()[..] {
        [LATEST | OWNER] => true,
        // A trial's: `trial-ATTEMPT-00000`.
        [file] => is_trial(file),
        [step, MANIFEST | DAMAGED_MANIFEST] => step_of(step).is_some(),
        [step, _role, file] => {
            let writer = file.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
            step_of(step).is_some() && writer.is_some_and(|numbers| numbers.split("-of-").all(is_number))
        }
        _ => false,
    }
}

/// Whether a name is a trial's.
pub(super) fn is_trial(name: &str) -> bool {
    name.strip_prefix("trial-").and_then(|rest| rest.rsplit_once('-')).is_some_and(|(_, rank)| is_number(rank))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_checkpoints_write_is_theirs() {
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
