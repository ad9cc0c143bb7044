//! Proposes the batch, the length of the run and its optimizer.

use admiral_plan::BatchDivision;

use crate::choice::Choice;
use crate::column::Column;
use crate::limits::{DROPOUT, FEW_IMAGES, LEAST_SAMPLES, MANY_EPOCHS, MAX_ACCUMULATION, MAX_EPOCHS, WINDOWS_A_RUN};

/// The ranks of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    /// Their number, at least 1.
    pub number: u64,
    /// The largest microbatch that the memory of one takes; `None` if the memory is unknown.
    pub microbatch: Option<u64>,
}

/// The proposed schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The samples of a step.
    pub global_batch: Choice<u64>,
    /// The samples of a pass on one rank.
    pub microbatch: Choice<u64>,
    /// The steps.
    pub steps: Choice<u64>,
    /// The learning rate.
    pub learning_rate: Choice<f64>,
    /// The rate of the moving average.
    pub ema_rate: Choice<f64>,
    /// The dropout.
    pub dropout: Choice<f64>,
}

/// The batch below which no proposal goes for want of images.
const LEAST_BATCH: u64 = 8;

/// The steps that an epoch has at least, unless the batch is [`LEAST_BATCH`].
const STEPS_AN_EPOCH: u64 = 10;

/// The rates of moving averages that are proposed, from the longest.
const EMA_RATES: [f64; 5] = [0.9999, 0.999, 0.995, 0.99, 0.9];

/// Proposes the schedule of a run on `images` images, after that of `column`. `num_channels` is the base number of channels
/// of the network, which may be narrower than the column's.
///
/// - The batch is the column's, but at most four passes on each rank, and at most a tenth of the images. It is the
///   number of ranks times a power of two.
/// - The run makes as many passes over the images as the column's over its own. It has at least [`LEAST_SAMPLES`] and
///   at most the column's samples, and makes at most [`MAX_EPOCHS`] passes.
/// - The learning rate is the column's times the square root of the ratio of the batches, and larger for a narrower network,
///   inversely with its width, as is usual for Adam.
/// - The moving average is the column's, or a shorter one of which the run has [`WINDOWS_A_RUN`] windows.
#[must_use]
pub fn schedule(column: &Column, images: u64, ranks: Ranks, num_channels: u64) -> Schedule {
    let global_batch = global_batch(column, images, ranks);
    let batch = global_batch.value;
    let steps = steps(column, images, batch);
    let epochs = steps.value.saturating_mul(batch) / images.max(1);
    Schedule {
        microbatch: microbatch(column, batch, ranks),
        learning_rate: learning_rate(column, batch, num_channels),
        ema_rate: ema_rate(column, steps.value),
        dropout: dropout(column, images, epochs),
        global_batch,
        steps,
    }
}

fn global_batch(column: &Column, images: u64, ranks: Ranks) -> Choice<u64> {
    let number = ranks.number.max(1);
    let passes = ranks.microbatch.map(|microbatch| microbatch.saturating_mul(number).saturating_mul(MAX_ACCUMULATION));
    let part = (images / STEPS_AN_EPOCH).max(LEAST_BATCH);
    let limit = column.global_batch.min(passes.unwrap_or(u64::MAX)).min(part).max(number);
    let batch = number << (limit / number).ilog2();
    let name = &column.name;
    let reason = if batch == column.global_batch {
        format!("as {name}")
    } else if limit == part {
        format!("a tenth of the images or less, at least {LEAST_BATCH}; {name} has {}", column.global_batch)
    } else if Some(limit) == passes {
        format!("at most {MAX_ACCUMULATION} passes a step on each GPU; {name} has {}", column.global_batch)
    } else {
        format!("divides over {number} ranks; {name} has {}", column.global_batch)
    };
    Choice::new(batch, reason)
}

fn microbatch(column: &Column, batch: u64, ranks: Ranks) -> Choice<u64> {
    let limit = ranks.microbatch.unwrap_or(column.microbatch).max(1);
    let division = BatchDivision::with_largest_microbatch(limit, batch, ranks.number.max(1));
    let microbatch = division.map_or(1, |division| division.microbatch);
    let share = batch / ranks.number.max(1);
    let reason = match ranks.microbatch {
        Some(most) if microbatch == share => {
            format!("a rank's share of the batch; by the plan, up to {most} fit into the memory of a GPU")
        }
        Some(most) => format!("divides a rank's share of {share}; by the plan, up to {most} fit into the memory"),
        None => format!("as {}; less needs less memory", column.name),
    };
    Choice::new(microbatch, reason)
}

fn steps(column: &Column, images: u64, batch: u64) -> Choice<u64> {
    let name = &column.name;
    let epochs = column.samples() as f64 / column.images.max(1) as f64;
    let epochs = if epochs < 10.0 { format!("{epochs:.1}") } else { format!("{epochs:.0}") };
    let own = u128::from(column.samples()) * u128::from(images) / u128::from(column.images.max(1));
    let least = u128::from(LEAST_SAMPLES.min(column.samples()));
    let most = u128::from(column.samples());
    let (samples, reason) = if own > most {
        (most, format!("as many samples as {name}, which is the most"))
    } else if own < least && least == most {
        (least, format!("as many samples as {name}"))
    } else if own < least {
        (least, format!("{:.1} million samples, which is the least", LEAST_SAMPLES as f64 / 1e6))
    } else {
        (own, format!("{epochs} epochs, as {name}"))
    };
    let limit = u128::from(images) * u128::from(MAX_EPOCHS);
    let (samples, reason) =
        if samples > limit { (limit, format!("{MAX_EPOCHS} epochs, which is the most")) } else { (samples, reason) };
    let steps = u64::try_from(samples / u128::from(batch.max(1))).unwrap_or(u64::MAX).max(1);
    Choice::new(if steps >= 10_000 { steps / 100 * 100 } else { steps }, reason)
}

fn learning_rate(column: &Column, batch: u64, num_channels: u64) -> Choice<f64> {
    let (name, own) = (&column.name, column.learning_rate);
    if batch == column.global_batch && num_channels == column.num_channels {
        return Choice::new(own, format!("as {name}"));
    }
    let narrowing = column.num_channels.max(1) as f64 / num_channels.max(1) as f64;
    let rate = own * (batch as f64 / column.global_batch.max(1) as f64).sqrt() * narrowing;
    // Two digits are enough. The text is a number, so that it can be read back.
    let rate = format!("{rate:.1e}").parse().unwrap_or(rate);
    let width = if num_channels == column.num_channels { "" } else { ", and for the narrower network" };
    Choice::new(rate, format!("{own} of {name}, times the root of the batches' ratio{width}"))
}

fn ema_rate(column: &Column, steps: u64) -> Choice<f64> {
    let is_short = |rate: f64| (WINDOWS_A_RUN as f64) / (1.0 - rate) <= steps as f64 * (1.0 + 1e-9);
    if is_short(column.ema_rate) {
        let window = (1.0 / (1.0 - column.ema_rate)).round();
        return Choice::new(column.ema_rate, format!("as {}: an average over {window} steps", column.name));
    }
    let shorter = EMA_RATES.into_iter().filter(|rate| *rate < column.ema_rate);
    let rate = shorter.clone().find(|rate| is_short(*rate)).or(EMA_RATES.last().copied()).unwrap_or(column.ema_rate);
    let reason =
        format!("an average over {:.0} steps; {} is too long for this run", 1.0 / (1.0 - rate), column.ema_rate);
    Choice::new(rate, reason)
}

fn dropout(column: &Column, images: u64, epochs: u64) -> Choice<f64> {
    if images < FEW_IMAGES && epochs > MANY_EPOCHS && column.dropout < DROPOUT {
        return Choice::new(DROPOUT, format!("{epochs} passes over {images} images would overfit without"));
    }
    Choice::new(column.dropout, format!("as {}", column.name))
}

/// Proposes the steps between two checkpoints: about an hour by the plan, if that knows the seconds of a step, and at
/// most a quarter of the run.
#[must_use]
pub fn save_interval(steps: u64, step_seconds: Option<f64>) -> Choice<u64> {
    let quarter = (steps / 4).max(1);
    let Some(seconds) = step_seconds.filter(|seconds| *seconds > 0.0) else {
        return Choice::new(quarter, "a quarter of the run");
    };
    let hour = ((3600.0 / seconds) as u64).max(1);
    // One significant digit.
    let unit = 10_u64.pow(hour.ilog10());
    let hour = hour / unit * unit;
    if hour < quarter {
        Choice::new(hour, "about an hour by the plan")
    } else {
        Choice::new(quarter, "a quarter of the run")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::tests::imagenet64;

    fn small() -> Column {
        Column {
            name: "the demo".into(),
            num_channels: 32,
            images: 60_000,
            global_batch: 32,
            microbatch: 16,
            steps: 2800,
            learning_rate: 1e-3,
            ema_rate: 0.995,
            dropout: 0.0,
            ..imagenet64()
        }
    }

    fn ranks(number: u64, microbatch: u64) -> Ranks {
        Ranks { number, microbatch: Some(microbatch) }
    }

    #[test]
    fn the_papers_images_get_the_papers_schedule() {
        let found = schedule(&imagenet64(), 1_281_167, ranks(8, 100), 192);
        assert_eq!((found.global_batch.value, found.microbatch.value, found.steps.value), (2048, 64, 540_000));
        assert_eq!((found.learning_rate.value, found.ema_rate.value, found.dropout.value), (3e-4, 0.9999, 0.1));
        assert_eq!(found.steps.reason, "863 epochs, as ImageNet 64");
    }

    #[test]
    fn fewer_gpus_take_a_smaller_batch_and_rate() {
        let found = schedule(&imagenet64(), 1_281_167, ranks(1, 100), 192);
        // 400 samples fit into four passes.
        assert_eq!((found.global_batch.value, found.microbatch.value), (256, 64));
        assert_eq!(found.learning_rate.value, 1.1e-4);
        assert_eq!(found.steps.value, 4_320_000);
        let odd = schedule(&imagenet64(), 1_281_167, ranks(6, 100), 192);
        assert_eq!((odd.global_batch.value, odd.microbatch.value), (1536, 64));
    }

    #[test]
    fn a_narrower_network_takes_a_larger_rate() {
        let found = schedule(&imagenet64(), 1_281_167, ranks(8, 100), 64).learning_rate;
        assert_eq!(found.value, 9e-4);
        assert!(found.reason.ends_with("for the narrower network"), "{}", found.reason);
    }

    #[test]
    fn the_length_of_a_run_has_bounds() {
        let steps = |images| {
            let found = schedule(&imagenet64(), images, ranks(1, 64), 192);
            (found.global_batch.value, found.steps.value, found.steps.reason)
        };
        let (batch, number, reason) = steps(10_000_000);
        assert_eq!(batch * number, 540_000 * 2048);
        assert!(reason.contains("which is the most"), "{reason}");
        assert_eq!((steps(10_000).0, steps(10_000).1), (256, 100_000));
        let (batch, number, reason) = steps(1000);
        assert_eq!((batch, number), (64, 62_500));
        assert!(reason.starts_with("4000 epochs"), "{reason}");
        assert_eq!((steps(30).0, steps(30).1), (8, 15_000));
    }

    #[test]
    fn a_cpu_gets_the_small_schedule() {
        let found = schedule(&small(), 60_000, Ranks { number: 1, microbatch: None }, 32);
        assert_eq!((found.global_batch.value, found.microbatch.value, found.steps.value), (32, 16, 2800));
        assert_eq!((found.ema_rate.value, found.dropout.value), (0.995, 0.0));
        let few = schedule(&small(), 30, Ranks { number: 1, microbatch: None }, 32);
        assert_eq!((few.global_batch.value, few.microbatch.value, few.steps.value), (8, 8, 11_200));
        assert_eq!((few.learning_rate.value, few.dropout.value), (5e-4, 0.1));
    }

    #[test]
    fn averages_are_not_longer_than_the_run() {
        let rate = |steps| ema_rate(&imagenet64(), steps).value;
        assert_eq!((rate(100_000), rate(99_999), rate(9_999), rate(1999), rate(2)), (0.9999, 0.999, 0.995, 0.99, 0.9));
    }

    #[test]
    fn an_hour_is_between_two_checkpoints() {
        assert_eq!(save_interval(540_000, Some(3.4)).value, 1000);
        assert_eq!(save_interval(2000, Some(3.4)).value, 500);
        assert_eq!((save_interval(2800, None).value, save_interval(1, None).value), (700, 1));
        assert_eq!(save_interval(10, Some(1e9)).value, 1);
    }
}
