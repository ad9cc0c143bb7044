//! Doubts about the length of the run, its intervals and its optimizer.

use crate::limits::{LEARNING_RATE_FACTOR, LEAST_EVALUATION_IMAGES, MAX_CHECKPOINT_BYTES, WINDOWS_A_RUN};

use super::doubt::Doubt;
use super::facts::RunFacts;

/// Returns the doubts about the training of a run on `count` images, if their number is known.
pub(super) fn doubts(run: &RunFacts, count: Option<u64>) -> Vec<Doubt> {
    let mut found = intervals(run, count);
    found.extend(learning_rate(run));
    found.extend(averages(run));
    found.extend(precision(run));
    found.extend(evaluation(run));
    found.extend(storage(run));
    found.extend(threads(run));
    found
}

fn intervals(run: &RunFacts, count: Option<u64>) -> Vec<Doubt> {
    let steps = run.steps;
    let validates = run.is_classifier && (run.validation_fraction > 0.0 && count != Some(0));
    [
        ("training.save_interval", run.save_interval, "only the last step has a checkpoint", true),
        ("training.log_interval", run.log_interval, "the curves have no points", true),
        ("training.sample_interval", run.sample_interval, "no samples are drawn", true),
        ("classifier.validation_interval", run.validation_interval, "nothing is measured", validates),
        (
            "evaluation.interval",
            run.evaluation.as_ref().map_or(0, |evaluation| evaluation.interval),
            "only the last step is evaluated",
            true,
        ),
    ]
    .into_iter()
    .filter(|(_, interval, _, is_used)| *is_used && *interval > steps)
    .map(|(field, interval, effect, _)| {
        let reason = format!("is {interval}, and the run has {steps} steps: {effect}");
        Doubt::new(field, reason, format!("choose less than {steps}"))
    })
    .collect()
}

fn learning_rate(run: &RunFacts) -> Vec<Doubt> {
    let rate = &run.learning_rate;
    let mut found = Vec::new();
    let paper = rate.of_paper(run.global_batch);
    let ratio = rate.rate / paper;
    if !(1.0 / LEARNING_RATE_FACTOR..=LEARNING_RATE_FACTOR).contains(&ratio) {
        let reason = format!(
            "is {:e}, far from {paper:.1e}, the paper's for batches of {} and {} channels",
            rate.rate, run.global_batch, rate.num_channels
        );
        found.push(Doubt::new("optimizer.learning_rate", reason, "choose a rate near it"));
    }
    if rate.warmup_steps >= run.steps {
        let reason =
            format!("is {}, and the run has {} steps: it never has its full rate", rate.warmup_steps, run.steps);
        found.push(Doubt::new("optimizer.warmup_steps", reason, "choose a small part of the steps"));
    }
    if rate.anneal_steps > 0 && rate.anneal_steps < run.steps {
        let idle = run.steps - rate.anneal_steps;
        let reason = format!("is {}: in the last {idle} of {} steps the rate is 0", rate.anneal_steps, run.steps);
        found.push(Doubt::new("optimizer.lr_anneal_steps", reason, format!("set it to {}, or to 0", run.steps)));
    }
    if rate.anneal_steps > run.steps.saturating_mul(2) {
        let reason = format!("is {}, and the run has {} steps: the rate hardly decays", rate.anneal_steps, run.steps);
        found.push(Doubt::new("optimizer.lr_anneal_steps", reason, format!("set it to {}, or to 0", run.steps)));
    }
    found
}

/// An average whose start is limited follows the run however short that is.
fn averages(run: &RunFacts) -> Option<Doubt> {
    if run.ema.rates.is_empty() {
        let reason = "is empty: no average is kept, and samples of the last weights are much worse";
        return Some(Doubt::new("optimizer.ema_rates", reason, "set it to [0.9999]"));
    }
    let window = |rate: f64| 1.0 / (1.0 - rate);
    let shortest = run.ema.rates.iter().copied().fold(1.0_f64, f64::min);
    // A window and the steps are compared with a tolerance, because 1 - 0.9999 is not exact.
    let fits = (WINDOWS_A_RUN as f64 / 2.0) * window(shortest) <= run.steps as f64 * (1.0 + 1e-9);
    (!run.ema.warmup && !fits).then(|| {
        let reason = format!(
            "averages over {:.0} steps, which is long for a run of {}: the initial weights stay in it",
            window(shortest),
            run.steps
        );
        let remedy = format!("choose a window of at most {} steps, or set ema_warmup: true", run.steps / WINDOWS_A_RUN);
        Doubt::new("optimizer.ema_rates", reason, remedy)
    })
}

fn precision(run: &RunFacts) -> Vec<Doubt> {
    let unused = run.unused_loss_scaling.iter().map(|field| {
        Doubt::new(field, "is set, and only fp16 has a loss scale", "leave it out, or set precision.mode: fp16")
    });
    let slow = (run.is_half && run.on_cpu).then(|| {
        let reason = "is half precision, which saves no time on a CPU and loses digits";
        Doubt::new("precision.mode", reason, "set it to fp32, or run.device: cuda")
    });
    unused.chain(slow).collect()
}

fn evaluation(run: &RunFacts) -> Option<Doubt> {
    let images = run.evaluation.as_ref()?.num_images;
    (images < LEAST_EVALUATION_IMAGES).then(|| {
        let reason = format!("is {images}: FID of so few images is mostly bias");
        Doubt::new("evaluation.num_images", reason, "choose 10000, or at least 2048")
    })
}

fn storage(run: &RunFacts) -> Option<Doubt> {
    let bytes = run.checkpoint_bytes.saturating_mul(run.most_checkpoints);
    (bytes > MAX_CHECKPOINT_BYTES).then(|| {
        let reason = format!(
            "keeps {} checkpoints of {:.1} GB at once, {:.1} TB",
            run.most_checkpoints,
            run.checkpoint_bytes as f64 / 1e9,
            bytes as f64 / 1e12
        );
        Doubt::new("checkpoint.keep_last", reason, "keep a few, and with checkpoint.keep_every some older ones")
    })
}

fn threads(run: &RunFacts) -> Vec<Doubt> {
    [("data.num_workers", run.num_workers), ("run.num_threads", run.num_threads)]
        .into_iter()
        .filter(|(_, threads)| *threads > run.cores)
        .map(|(field, threads)| {
            let reason = format!("is {threads} for each rank, and this machine has {} cores", run.cores);
            Doubt::new(field, reason, "choose the cores of a host, divided by its ranks, or less")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::facts::tests::sound;
    use crate::check::{EmaFacts, Evaluation, LearningRate};

    fn fields(run: &RunFacts) -> Vec<String> {
        doubts(run, None).into_iter().map(|doubt| doubt.field).collect()
    }

    #[test]
    fn a_sound_run_raises_no_doubts() {
        assert_eq!(fields(&sound()), [""; 0]);
    }

    #[test]
    fn intervals_lie_within_the_run() {
        let evaluation = Evaluation { interval: 540_001, num_images: 10_000, with_validation: false };
        let run = RunFacts {
            save_interval: 540_001,
            log_interval: 540_001,
            sample_interval: 540_001,
            evaluation: Some(evaluation),
            ..sound()
        };
        let names =
            ["training.save_interval", "training.log_interval", "training.sample_interval", "evaluation.interval"];
        assert_eq!(fields(&run), names);
        assert_eq!(fields(&RunFacts { save_interval: 540_000, ..sound() }), [""; 0]);
        let classifier = RunFacts { is_classifier: true, validation_interval: 540_001, ..sound() };
        assert_eq!(fields(&classifier), [""; 0]);
        assert_eq!(fields(&RunFacts { validation_fraction: 0.1, ..classifier }), ["classifier.validation_interval"]);
    }

    #[test]
    fn the_learning_rate_is_near_the_papers_and_lasts() {
        let with = |change: fn(&mut LearningRate)| {
            let mut run = sound();
            change(&mut run.learning_rate);
            fields(&run)
        };
        assert_eq!(with(|rate| rate.rate = 3e-3), [""; 0]);
        assert_eq!(with(|rate| rate.rate = 1e-2), ["optimizer.learning_rate"]);
        assert_eq!(with(|rate| rate.rate = 3e-5), ["optimizer.learning_rate"]);
        assert_eq!(with(|rate| rate.warmup_steps = 540_000), ["optimizer.warmup_steps"]);
        assert_eq!(with(|rate| rate.anneal_steps = 539_999), ["optimizer.lr_anneal_steps"]);
        assert_eq!(with(|rate| rate.anneal_steps = 540_000), [""; 0]);
        assert_eq!(with(|rate| rate.anneal_steps = 2_000_000), ["optimizer.lr_anneal_steps"]);
    }

    #[test]
    fn averages_fit_into_the_run() {
        let with = |rates: &[f64], warmup, steps| {
            fields(&RunFacts {
                ema: EmaFacts { rates: rates.to_vec(), warmup },
                steps,
                save_interval: 1,
                sample_interval: 0,
                ..sound()
            })
        };
        assert_eq!(with(&[0.9999], false, 50_000), [""; 0]);
        assert_eq!(with(&[0.9999], false, 49_999), ["optimizer.ema_rates"]);
        assert_eq!(with(&[0.9999], true, 1000), [""; 0]);
        assert_eq!(with(&[0.9999, 0.99], false, 1000), [""; 0]);
        assert_eq!(with(&[], false, 1000), ["optimizer.ema_rates"]);
    }

    #[test]
    fn precision_evaluation_storage_and_threads_are_read() {
        let unused = RunFacts { unused_loss_scaling: vec!["precision.fp16_scale_growth"], is_half: false, ..sound() };
        assert_eq!(fields(&unused), ["precision.fp16_scale_growth"]);
        assert_eq!(fields(&RunFacts { on_cpu: true, ..sound() }), ["precision.mode"]);
        assert_eq!(fields(&RunFacts { on_cpu: true, is_half: false, ..sound() }), [""; 0]);
        let evaluation = Evaluation { interval: 1000, num_images: 2047, with_validation: false };
        assert_eq!(fields(&RunFacts { evaluation: Some(evaluation), ..sound() }), ["evaluation.num_images"]);
        let large = RunFacts { checkpoint_bytes: 6_000_000_000, most_checkpoints: 436, ..sound() };
        let found = doubts(&large, None);
        assert!(found[0].reason.contains("436 checkpoints of 6.0 GB at once, 2.6 TB"), "{}", found[0]);
        let busy = RunFacts { num_workers: 9, num_threads: 9, ..sound() };
        assert_eq!(fields(&busy), ["data.num_workers", "run.num_threads"]);
    }
}
