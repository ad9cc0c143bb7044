//! The evaluation of the images of a cell, right after they were drawn.

use admiral_comm::{Ending, agree};
use admiral_evaluation::{ImageCount, MeasureOptions, OpenedSide, Report, Side, check_comparison, measure};
use admiral_storage::{Store, hex};
use sha2::{Digest, Sha256};

use crate::commands::compute::DeviceOptions;
use crate::commands::evaluate::{Network, NetworkOptions, open_side, open_work, with_features};
use crate::context::RankContext;
use crate::evaluate;
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
    measured: MeasureOptions,
    reference: Reference,
    store: Store,
    rank: RankContext<'a>,
}

/// What all cells are compared with.
enum Reference {
    /// Its features are not read yet.
    Opened(OpenedSide),
    /// Rank 0 has all that the comparisons need of it.
    Prepared(Option<Side>),
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
        let drawn = ImageCount { location: "the images of a cell".into(), num: spec.num, shape };
        let checked = check_comparison(Some(&drawn), reference.count().as_ref(), network.extractor.input());
        agree(rank.collective, checked.map_err(evaluate::Error::from), evaluate::Error::exit_code)?;
        let stamp = match &reference.images {
            // Only rank 0 writes the table, and times of change may differ between hosts.
            Some(images) if rank.collective.rank() == 0 => images.stamp(),
            _ => Ok(String::new()),
        };
        let stamp = agree(rank.collective, stamp.map_err(evaluate::Error::from), evaluate::Error::exit_code)?;
        let images = reference.images.as_ref().map(|images| images.key() + &stamp);
        let statistics = reference.statistics.as_ref().map(|statistics| &statistics.sha256);
        let all = serde_json::json!([network.extractor.identity(), images, statistics]);
        let fingerprint = hex(Sha256::digest(all.to_string()));
        let store = open_work(options.work.as_deref(), &spec.out, rank)?;
        let (adm, exact) = (settings.mode == Numerics::Adm, settings.mode == Numerics::Exact);
        let measured = MeasureOptions { adm, exact, only_main: true, ..MeasureOptions::default() };
        let (settings, reference) = (settings.clone(), Reference::Opened(reference));
        Ok(Self { settings, fingerprint, options, network, measured, reference, store, rank })
    }

    /// Evaluates the images of the job at a location. Every rank calls it.
    ///
    /// # Errors
    /// When the images cannot be read or compared.
    pub(super) fn of(&mut self, job: &str, stop: &Stop) -> Result<Evaluation, Ending> {
        let code = evaluate::Error::exit_code;
        let is_root = self.rank.collective.rank() == 0;
        let samples = open_side(job, &self.network, &self.options, self.rank)?;
        let Some(samples) = with_features(samples, &self.network, &self.store, stop)? else {
            return Ok(Evaluation::Stopped);
        };
        if !self.prepare(stop)? {
            return Ok(Evaluation::Stopped);
        }
        let compared = || -> Result<Option<Report>, evaluate::Error> {
            let Reference::Prepared(Some(reference)) = &self.reference else { return Ok(None) };
            Ok(Some(measure(&samples.read()?, reference, self.network.extractor.identity(), &self.measured)?))
        };
        let report = agree(self.rank.collective, if is_root { compared() } else { Ok(None) }, code)?;
        Ok(Evaluation::Finished(report.map(|report| Box::new(self.evaluated(&report)))))
    }

    /// Computes what all comparisons need of the reference, once. Every rank calls it. Returns whether it is there; it is not
    /// if the ranks were asked to stop.
    fn prepare(&mut self, stop: &Stop) -> Result<bool, Ending> {
        let opened = match std::mem::replace(&mut self.reference, Reference::Prepared(None)) {
            Reference::Opened(opened) => opened,
            prepared => {
                self.reference = prepared;
                return Ok(true);
            }
        };
        let Some(computed) = with_features(opened, &self.network, &self.store, stop)? else { return Ok(false) };
        let prepared = || -> Result<Option<Side>, evaluate::Error> {
            if self.rank.collective.rank() != 0 {
                return Ok(None);
            }
            Ok(Some(computed.read()?.with_moments(self.network.extractor.identity(), &self.measured)?))
        };
        let prepared = agree(self.rank.collective, prepared(), evaluate::Error::exit_code)?;
        self.reference = Reference::Prepared(prepared);
        Ok(true)
    }

    /// Returns whether an earlier evaluation is of the same network and reference.
    pub(super) fn is_same(&self, evaluated: &Evaluated) -> bool {
        (&evaluated.settings, &evaluated.fingerprint) == (&self.settings, &self.fingerprint)
    }

    /// Returns in what an earlier evaluation differs from this one, or `None` if it is of the same network and reference with
    /// the same settings.
    pub(super) fn difference_from(&self, evaluated: &Evaluated) -> Option<String> {
        if self.is_same(evaluated) {
            return None;
        }
        let fields = |settings: &SweepEvaluation| match serde_json::json!(settings) {
            serde_json::Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        let (there, here) = (fields(&evaluated.settings), fields(&self.settings));
        let differing = here.iter().filter(|(field, here)| there.get(*field) != Some(*here));
        let differences: Vec<String> = differing
            .map(|(field, here)| format!("{field}: {} there, {here} here", there.get(field).unwrap_or_default()))
            .collect();
        match differences.is_empty() {
            true => Some("the reference or the weights of the network have changed".into()),
            false => Some(differences.join("; ")),
        }
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
