//! The evaluation of the images of a cell, right after they were drawn.

use admiral_comm::{Ending, agree};
use admiral_evaluation::{MeasureOptions, Report};
use admiral_storage::{Store, hex};
use sha2::{Digest, Sha256};

use crate::commands::compute::DeviceOptions;
use crate::commands::evaluate::{Network, NetworkOptions, compared, open_side, open_work};
use crate::context::RankContext;
use crate::sample::Error;
use crate::stop::Stop;

use super::spec::{Numerics, SweepEvaluation, SweepSpec};
use super::table::Evaluated;

/// What evaluates the cells of a sweep. Features are kept beside the cells, so that an interrupted evaluation continues, and
/// those of the reference are computed once.
pub(super) struct CellEvaluation<'a> {
    settings: SweepEvaluation,
    /// What the metrics depend on besides the settings: the weights of the network, and the reference.
    fingerprint: String,
    options: NetworkOptions,
    network: Network<'a>,
    store: Store,
    rank: RankContext<'a>,
}

/// How an evaluation ended on a rank.
pub(super) enum Evaluation {
    /// The ranks were asked to stop.
    Stopped,
    /// It is finished. Rank 0 has the result.
    Finished(Option<Box<Evaluated>>),
}

impl<'a> CellEvaluation<'a> {
    /// Opens the network of the features, and checks that the reference is there and fits images of `shape` (height, width,
    /// channels). Every rank calls it.
    ///
    /// # Errors
    /// When the network or the reference cannot be used.
    pub(super) fn open(
        settings: &SweepEvaluation,
        spec: &SweepSpec,
        shape: [usize; 3],
        rank: RankContext<'a>,
    ) -> Result<Self, Ending> {
        let options = NetworkOptions {
            features: settings.features.clone(),
            inception: settings.inception.clone(),
            weights: settings.weights.clone(),
            size: settings.size,
            work: Some(format!("{}/evaluation", spec.out.trim_end_matches('/'))),
            compute: DeviceOptions { device: spec.device, threads: spec.threads },
        };
        let network = Network::open(&options, rank)?;
        let reference = open_side(&settings.reference, &network, &options, rank)?;
        let found = reference.images.as_ref().map_or(shape, |images| images.shape());
        let same = if found[..2] == shape[..2] {
            Ok(())
        } else {
            Err(Error::Refused(format!(
                "evaluate.reference: {} has images of {} x {} pixels, and the sweep draws {} x {}",
                settings.reference, found[0], found[1], shape[0], shape[1]
            )))
        };
        agree(rank.collective, same, Error::exit_code)?;
        let images = reference.images.as_ref().map(|images| images.key() + &images.stamp());
        let statistics = reference.statistics.as_ref().map(|statistics| &statistics.sha256);
        let all = serde_json::json!([network.extractor.identity(), images, statistics]);
        let fingerprint = hex(Sha256::digest(all.to_string()));
        let store = open_work(options.work.as_deref(), &spec.out, rank)?;
        Ok(Self { settings: settings.clone(), fingerprint, options, network, store, rank })
    }

    /// Evaluates the images of the job at a location. Every rank calls it.
    ///
    /// # Errors
    /// When the images cannot be read or compared.
    pub(super) fn of(&self, job: &str, stop: &Stop) -> Result<Evaluation, Ending> {
        let samples = open_side(job, &self.network, &self.options, self.rank)?;
        let reference = open_side(&self.settings.reference, &self.network, &self.options, self.rank)?;
        let (adm, exact) = (self.settings.mode == Numerics::Adm, self.settings.mode == Numerics::Exact);
        let measured = MeasureOptions { adm, exact, only_main: true, ..MeasureOptions::default() };
        let report = compared(samples, reference, &measured, &self.network, &self.store, stop)?;
        Ok(report.map_or(Evaluation::Stopped, |report| {
            Evaluation::Finished(report.map(|report| Box::new(self.evaluated(&report))))
        }))
    }

    /// Returns whether an earlier evaluation is of the same network and reference.
    pub(super) fn is_same(&self, evaluated: &Evaluated) -> bool {
        (&evaluated.settings, &evaluated.fingerprint) == (&self.settings, &self.fingerprint)
    }

    fn evaluated(&self, report: &Report) -> Evaluated {
        let metric = |name: &String| Some((name.clone(), report.value(name).filter(|value| value.is_finite())?));
        Evaluated {
            settings: self.settings.clone(),
            fingerprint: self.fingerprint.clone(),
            metrics: report.metrics.iter().filter_map(|row| metric(&row.name)).collect(),
            report: serde_json::to_value(report).unwrap_or_default(),
        }
    }
}
