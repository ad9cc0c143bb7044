//! Doubts about the network and its number of images.

use crate::limits::{DROPOUT, FEW_IMAGES, MANY_EPOCHS, MAX_EPOCHS, MAX_PARAMETERS_PER_IMAGE};
use crate::survey::Pictures;

use super::doubt::Doubt;
use super::facts::RunFacts;

/// The size in pixels up to which the linear schedule destroys images too early.
const COSINE_SIZE: u64 = 64;

/// Returns the doubts about the network of a run.
pub(super) fn doubts(run: &RunFacts, pictures: Option<&Pictures>) -> Vec<Doubt> {
    let count = pictures.map(|pictures| pictures.count.max(1));
    let found = [
        one_class(run),
        noise(run),
        count.and_then(|count| capacity(run, count)),
        count.and_then(|count| passes(run, count)),
        count.and_then(|count| dropout(run, count)),
    ];
    found.into_iter().flatten().collect()
}

fn one_class(run: &RunFacts) -> Option<Doubt> {
    (run.num_classes == Some(1)).then(|| {
        Doubt::new(
            "model.num_classes",
            "is 1: there is nothing to tell apart",
            "set it to null, and data.classes: none",
        )
    })
}

fn noise(run: &RunFacts) -> Option<Doubt> {
    (run.is_linear && run.draws_from_noise && run.image_size <= COSINE_SIZE).then(|| {
        let reason = format!("is linear, which destroys images of {} pixels too early", run.image_size);
        Doubt::new("diffusion.noise_schedule", reason, "set it to cosine, as the paper for 64 pixels")
    })
}

fn capacity(run: &RunFacts, count: u64) -> Option<Doubt> {
    let per_image = run.parameters / count;
    (run.parameters > count.saturating_mul(MAX_PARAMETERS_PER_IMAGE)).then(|| {
        let reason =
            format!("gives {per_image} parameters for each of {count} images, and the paper's models have up to 440");
        Doubt::new(
            "model.num_channels",
            reason,
            "choose fewer channels, or add images; the model may learn them by heart",
        )
    })
}

fn passes(run: &RunFacts, count: u64) -> Option<Doubt> {
    let samples = run.steps.saturating_mul(run.global_batch);
    if samples < count {
        let reason = format!("end after {samples} samples, before the run has seen each of {count} images");
        return Some(Doubt::new(
            "training.steps",
            reason,
            format!("choose {} or more", count.div_ceil(run.global_batch.max(1))),
        ));
    }
    let epochs = samples / count;
    (epochs > MAX_EPOCHS).then(|| {
        let reason = format!("make {epochs} passes over {count} images, and the paper's models up to 870");
        let most = count.saturating_mul(MAX_EPOCHS) / run.global_batch.max(1);
        Doubt::new("training.steps", reason, format!("choose at most {most}, or add images"))
    })
}

fn dropout(run: &RunFacts, count: u64) -> Option<Doubt> {
    let epochs = run.steps.saturating_mul(run.global_batch) / count;
    (run.dropout == 0.0 && count < FEW_IMAGES && epochs > MANY_EPOCHS).then(|| {
        let reason = format!("is 0, with {epochs} passes over {count} images");
        Doubt::new("model.dropout", reason, format!("set it to {DROPOUT}, as the paper's models that would overfit"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::facts::tests::sound;

    fn fields(run: &RunFacts, count: u64) -> Vec<String> {
        let pictures = Pictures { count, ..Pictures::default() };
        doubts(run, Some(&pictures)).into_iter().map(|doubt| doubt.field).collect()
    }

    #[test]
    fn the_number_of_images_bounds_parameters_and_passes() {
        assert_eq!(fields(&sound(), 1_000_000), [""; 0]);
        assert_eq!(fields(&RunFacts { steps: 10_000, ..sound() }, 29_999), ["model.num_channels"]);
        assert_eq!(fields(&RunFacts { steps: 10_000, ..sound() }, 30_000), [""; 0]);
        assert_eq!(fields(&sound(), 200_000), ["training.steps"]);
        assert_eq!(fields(&RunFacts { steps: 488, ..sound() }, 1_000_000), ["training.steps"]);
        assert_eq!(fields(&RunFacts { steps: 489, ..sound() }, 1_000_000), [""; 0]);
        let without = RunFacts { dropout: 0.0, steps: 10_000, ..sound() };
        assert_eq!((fields(&without, 99_999), fields(&without, 100_000)), (vec!["model.dropout".to_owned()], vec![]));
    }

    #[test]
    fn classes_and_noise_are_read_without_images() {
        let found = doubts(&RunFacts { num_classes: Some(1), is_linear: true, ..sound() }, None);
        let fields: Vec<&str> = found.iter().map(|doubt| &*doubt.field).collect();
        assert_eq!(fields, ["model.num_classes", "diffusion.noise_schedule"]);
        assert_eq!(doubts(&RunFacts { is_linear: true, draws_from_noise: false, ..sound() }, None), []);
        assert_eq!(doubts(&RunFacts { is_linear: true, image_size: 128, ..sound() }, None), []);
    }
}
