//! Doubts about the images.

use crate::limits::IMAGES_PER_CLASS;
use crate::survey::Pictures;

use super::doubt::Doubt;
use super::facts::RunFacts;

/// Returns the doubts about the images of a run.
pub(super) fn doubts(run: &RunFacts, pictures: &Pictures) -> Vec<Doubt> {
    let found = [
        classes(run, pictures),
        small_class(run, pictures),
        sizes(run, pictures),
        channels(run, pictures),
        flips(run, pictures),
        broken(run, pictures),
        batch(run, pictures),
        validation(run, pictures),
    ];
    found.into_iter().flatten().collect()
}

fn classes(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    let field = "model.num_classes";
    let number = pictures.class_sizes.len() as u64;
    match run.num_classes {
        None if number > 1 => Some(Doubt::new(
            field,
            format!("the images have {number} classes, and the model is not conditioned on them"),
            format!("set {field}: {number}, or take the classes from data"),
        )),
        Some(wanted) if number == 0 => Some(Doubt::new(
            field,
            format!("is {wanted}, and the images have no classes"),
            format!("set data.classes or data.label_path, or {field}: null"),
        )),
        Some(wanted) if wanted != number => Some(Doubt::new(
            field,
            format!("is {wanted}, and the images have {number} classes"),
            format!("set it to {number}"),
        )),
        _ => None,
    }
}

fn small_class(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    run.num_classes.filter(|classes| *classes > 1)?;
    let (class, size) = pictures.class_sizes.iter().enumerate().min_by_key(|(_, size)| **size)?;
    let name = pictures.class_names.get(class).map_or_else(|| class.to_string(), |name| format!("{name:?}"));
    (*size < IMAGES_PER_CLASS).then(|| {
        let field = if run.classes_are_chosen { "data.classes" } else { "data.label_path" };
        let remedy = "add images to it, leave it out, or train without classes";
        Doubt::new(field, format!("the class {name} has {size} of {} images", pictures.count), remedy)
    })
}

fn sizes(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    let size = run.image_size;
    let sample = pictures.short_sides.len();
    let smaller = pictures.short_sides.iter().filter(|side| **side < size).count();
    (!pictures.is_padded && 4 * smaller > sample).then(|| {
        Doubt::new(
            "model.image_size",
            format!(
                "is {size}, and {smaller} of {sample} images looked at are smaller: they are enlarged, and look blurred"
            ),
            format!("choose at most {}, or leave small images out", pictures.lower_quartile()),
        )
    })
}

fn channels(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    let (gray, sample) = (pictures.num_gray, pictures.short_sides.len() as u64);
    if run.image_channels == 1 && gray < sample {
        let reason = format!("is 1, and {} of {sample} images looked at have colours, which are lost", sample - gray);
        return Some(Doubt::new("model.image_channels", reason, "set it to 3"));
    }
    (run.image_channels == 3 && pictures.is_gray()).then(|| {
        let reason = format!("is 3, and all {sample} images looked at are grey");
        Doubt::new("model.image_channels", reason, "set it to 1; the model then draws no colours")
    })
}

fn flips(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    (run.random_flip && pictures.look_like_digits()).then(|| {
        let reason = "is true, and the images are small and grey, as digits or text, which have no mirror images";
        Doubt::new("data.random_flip", reason, "set it to false, unless mirrored images are right")
    })
}

fn broken(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    let first = pictures.broken.first().filter(|_| run.stops_at_broken)?;
    let number = pictures.broken.len();
    let sample = pictures.short_sides.len() + number;
    let reason = format!("is stop, and {number} of {sample} images looked at cannot be decoded, the first is {first}");
    Some(Doubt::new("data.on_broken_image", reason, "repair or remove them, or set it to skip"))
}

fn batch(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    let (batch, count) = (run.global_batch, pictures.count);
    (batch > count).then(|| {
        let reason = format!("is {batch}, and there are {count} images: a step sees some of them twice");
        Doubt::new("training.global_batch", reason, format!("choose at most {count}"))
    })
}

fn validation(run: &RunFacts, pictures: &Pictures) -> Option<Doubt> {
    let field = "data.validation_fraction";
    if run.validation_fraction == 0.0 {
        return None;
    }
    let is_used = run.is_classifier || run.evaluation.as_ref().is_some_and(|evaluation| evaluation.with_validation);
    if !is_used {
        let reason = "keeps images from training, and nothing is measured on them";
        return Some(Doubt::new(
            field,
            reason,
            "set it to 0; only classifiers and evaluation.reference: validation use them",
        ));
    }
    let kept = (pictures.count as f64 * run.validation_fraction).round() as u64;
    (kept < run.microbatch).then(|| {
        let reason =
            format!("keeps {kept} of {} images, fewer than a microbatch of {}", pictures.count, run.microbatch);
        Doubt::new(field, reason, "keep more, or give data.validation_path")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::facts::tests::sound;

    fn million() -> Pictures {
        let class_names = vec!["cat".into(), "dog".into()];
        Pictures {
            count: 1_000_000,
            class_sizes: vec![500_000; 2],
            class_names,
            short_sides: vec![100; 64],
            ..Pictures::default()
        }
    }

    fn only(run: &RunFacts, pictures: &Pictures) -> Doubt {
        let mut found = doubts(run, pictures);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn sound_images_raise_no_doubts() {
        assert_eq!(doubts(&sound(), &million()), []);
    }

    #[test]
    fn classes_of_model_and_images_are_compared() {
        for (num_classes, part) in
            [(None, "have 2 classes, and the model is not"), (Some(3), "is 3, and the images have 2")]
        {
            let doubt = only(&RunFacts { num_classes, ..sound() }, &million());
            assert_eq!(doubt.field, "model.num_classes");
            assert!(doubt.reason.contains(part), "{doubt}");
        }
        let without = Pictures { class_sizes: Vec::new(), class_names: Vec::new(), ..million() };
        assert!(only(&sound(), &without).reason.contains("no classes"));
        let small = Pictures { class_sizes: vec![999_998, 2], ..million() };
        let doubt = only(&sound(), &small);
        assert!(doubt.field == "data.classes" && doubt.reason.contains("\"dog\" has 2 of"), "{doubt}");
    }

    #[test]
    fn sizes_and_colours_are_compared() {
        let small = Pictures { short_sides: [vec![50; 17], vec![100; 47]].concat(), ..million() };
        let doubt = only(&sound(), &small);
        assert!(doubt.field == "model.image_size" && doubt.reason.contains("17 of 64"), "{doubt}");
        assert_eq!(doubts(&sound(), &Pictures { is_padded: true, ..small }), []);
        let gray = Pictures { num_gray: 64, ..million() };
        assert!(only(&sound(), &gray).reason.contains("all 64 images"));
        let one = RunFacts { image_channels: 1, ..sound() };
        assert_eq!(doubts(&one, &gray), []);
        assert!(only(&one, &million()).reason.contains("64 of 64"));
        let digits = Pictures { num_gray: 64, short_sides: vec![64; 64], ..million() };
        assert_eq!(only(&one, &digits).field, "data.random_flip");
        assert_eq!(doubts(&RunFacts { random_flip: false, ..one }, &digits), []);
    }

    #[test]
    fn broken_and_few_images_are_named() {
        let broken = Pictures { broken: vec!["a.png: empty".into()], ..million() };
        assert!(
            only(&sound(), &broken).reason.contains("1 of 65 images looked at cannot be decoded, the first is a.png")
        );
        assert_eq!(doubts(&RunFacts { stops_at_broken: false, ..sound() }, &broken), []);
        let few = Pictures { count: 2000, ..million() };
        assert_eq!(only(&sound(), &few).field, "training.global_batch");
    }

    #[test]
    fn validation_images_are_used_and_make_a_batch() {
        let kept = RunFacts { validation_fraction: 0.00005, ..sound() };
        assert!(only(&kept, &million()).reason.contains("nothing is measured"));
        let classifier = RunFacts { is_classifier: true, ..kept };
        assert!(only(&classifier, &million()).reason.contains("keeps 50 of 1000000 images"));
        assert_eq!(doubts(&RunFacts { validation_fraction: 0.0001, ..classifier }, &million()), []);
    }
}
