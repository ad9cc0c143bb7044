//! Doubts about memory and time, by the plan.

use admiral_plan::Report;

use crate::limits::MAX_HOURS_UNSAVED;

use super::doubt::Doubt;
use super::facts::{Planned, RunFacts};

const GIB: f64 = (1_u64 << 30) as f64;

/// Returns the doubts that the plan of a run raises.
pub(super) fn doubts(run: &RunFacts, planned: &Planned) -> Vec<Doubt> {
    let report = match &planned.report {
        Ok(report) => report,
        Err(reason) => {
            let remedy = "choose another number of ranks, batch or microbatch";
            return vec![Doubt::new("training.global_batch", reason.clone(), remedy)];
        }
    };
    let found = [shortage(report), room(report, planned), unsaved(run, report)];
    found.into_iter().flatten().collect()
}

fn shortage(report: &Report) -> Option<Doubt> {
    let lack = report.shortage.as_ref()?;
    let memory = report.hardware.memory_bytes.unwrap_or(0) as f64 / GIB;
    let reason = format!(
        "is {}, which needs {:.1} GiB by the plan, and a {} has {memory:.1} GiB",
        report.batch.microbatch,
        report.memory.total as f64 / GIB,
        report.hardware.kind
    );
    let remedy = if lack.options.is_empty() {
        format!("use a smaller network: this one needs {:.1} GiB at least", lack.least_bytes as f64 / GIB)
    } else {
        format!("use {}", lack.options.join(", or "))
    };
    Some(Doubt::new("training.microbatch", reason, remedy))
}

fn room(report: &Report, planned: &Planned) -> Option<Doubt> {
    let batch = report.batch;
    let limit = planned.comfortable_microbatch?;
    let larger = admiral_plan::BatchDivision::with_largest_microbatch(limit, batch.global_batch, batch.world_size)?;
    (larger.microbatch > batch.microbatch).then(|| {
        let reason = format!(
            "is {}, which makes {} passes a step, and {} would fit into the memory of a {}",
            batch.microbatch, batch.accumulation, larger.microbatch, report.hardware.kind
        );
        Doubt::new("training.microbatch", reason, format!("set it to {}", larger.microbatch))
    })
}

fn unsaved(run: &RunFacts, report: &Report) -> Option<Doubt> {
    let seconds = report.time.as_ref()?.step_seconds;
    let hours = run.save_interval.min(run.steps) as f64 * seconds / 3600.0;
    (hours > MAX_HOURS_UNSAVED).then(|| {
        let reason = format!("is {}, about {hours:.0} hours by the plan, which a failure loses", run.save_interval);
        Doubt::new(
            "training.save_interval",
            reason,
            format!("choose about {} steps, an hour", (3600.0 / seconds).ceil()),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use admiral_plan::{BatchDivision, GpuKind, LayerMemory, Norms, Request, Speed, Weights, Work, plan};

    use super::*;
    use crate::check::facts::tests::sound;
    use crate::network::largest_microbatch;

    const GIB_AN_IMAGE: u64 = 1 << 30;

    /// A plan on eight V100 of a network that keeps 1 GiB an image.
    fn planned(microbatch: u64) -> Planned {
        let layer = LayerMemory {
            name: "layer".into(),
            input_bytes: 0,
            keeps_input: false,
            inner_bytes: GIB_AN_IMAGE,
            backward_bytes: 0,
            can_checkpoint: false,
        };
        let weights = Weights { parameters: 1000, torso: 1000, half: true, num_emas: 1, float_sums: true };
        let request = Request {
            name: String::new(),
            work: Work {
                forward_flops: 100_000_000_000,
                weights,
                wire_bytes: 4000,
                bucket_bytes: 4000,
                recomputes: false,
                overlaps: true,
            },
            layers: vec![(Norms::Fused, vec![layer])],
            norms: Norms::Fused,
            batch: BatchDivision::new(512, microbatch, 8).unwrap(),
            worlds: Vec::new(),
            steps: 540_000,
            mean_image_bytes: 1000,
            checkpoint_bytes: 1000,
            num_saves: 1,
            most_checkpoints: 1,
        };
        let hardware = GpuKind::V100.hardware();
        let report = Box::new(plan(&request, &hardware, Speed::Mfu(0.4)).unwrap());
        let comfortable_microbatch = largest_microbatch(&report, false);
        Planned { ranks: 8, report: Ok(report), comfortable_microbatch }
    }

    #[test]
    fn a_microbatch_fits_and_fills_the_memory() {
        assert_eq!(doubts(&sound(), &planned(16)), []);
        let found = doubts(&sound(), &planned(64));
        assert!(
            found[0].reason.contains("is 64, which needs") && found[0].reason.contains("v100 has 31.8"),
            "{}",
            found[0]
        );
        assert_eq!(found[0].remedy, "use --set training.microbatch=16");
        let found = doubts(&sound(), &planned(4));
        assert!(found[0].reason.contains("is 4, which makes 16 passes a step, and 16 would fit"), "{}", found[0]);
        let uneven = Planned { report: Err("cannot be divided over 7 ranks".into()), ..planned(16) };
        assert_eq!(doubts(&sound(), &uneven)[0].field, "training.global_batch");
    }

    #[test]
    fn hours_of_work_are_saved() {
        let seconds = planned(16).report.unwrap().time.unwrap().step_seconds;
        let save_interval = (7.0 * 3600.0 / seconds) as u64;
        let found = doubts(&RunFacts { save_interval, ..sound() }, &planned(16));
        assert!(
            found[0].field == "training.save_interval" && found[0].reason.contains("about 7 hours"),
            "{}",
            found[0]
        );
        // The last step has a checkpoint too.
        assert_eq!(doubts(&RunFacts { save_interval, steps: 10, ..sound() }, &planned(16)), []);
    }
}
