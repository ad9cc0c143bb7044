//! Opens the network of the features.

use std::path::{Path, PathBuf};

use admiral_comm::{Ending, agree};
use admiral_storage::StoreOptions;
use tch::Kind;

use crate::context::RunContext;
use crate::sample::OpenedModel;

use super::classifier::{ClassifierExtractor, check_classifier};
use super::error::Error;
use super::extractor::FeatureExtractor;
use super::inception::{Inception, open_weights};

/// The name of Inception among the networks of features. All others are locations of checkpoints.
const INCEPTION: &str = "inception";

/// Where the network of the features comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureSource {
    /// Inception, with the weights of a file.
    Inception(Option<PathBuf>),
    /// An Admiral classifier.
    Classifier {
        /// The location of its checkpoint.
        location: String,
        /// Its weights, as in [`OpenedModel::open`].
        weights: Option<String>,
    },
}

impl FeatureSource {
    /// Returns the network with a name: `inception` with the weights in `file`, or the classifier at the location `name`.
    #[must_use]
    pub fn new(name: &str, file: Option<&Path>, weights: Option<&str>) -> Self {
        match name {
            INCEPTION => Self::Inception(file.map(Path::to_owned)),
            location => Self::Classifier { location: location.to_owned(), weights: weights.map(str::to_owned) },
        }
    }

    /// Opens the network and reads its weights. Every rank calls it.
    ///
    /// # Errors
    /// When there are no such weights, or ranks read different ones, with the same message on every rank.
    pub fn open(&self, stores: &StoreOptions, context: &RunContext<'_>) -> Result<Box<dyn FeatureExtractor>, Ending> {
        let (collective, code) = (context.collective, Error::exit_code);
        let extractor: Box<dyn FeatureExtractor> = match self {
            Self::Inception(file) => {
                let network =
                    open_weights(file.as_deref()).and_then(|weights| Inception::new(&weights, &context.kernels));
                Box::new(agree(collective, network, code)?)
            }
            Self::Classifier { location, weights } => {
                let opened = OpenedModel::open(location, weights.as_deref(), stores).map_err(Error::from);
                let opened = opened.and_then(|model| check_classifier(&model).map(|()| model));
                let opened = agree(collective, opened, code)?;
                let model = opened.load(Kind::Float, context.device, collective).map_err(Error::from);
                let model = agree(collective, model, code)?;
                let extractor = ClassifierExtractor::new(model, context.kernels.clone(), context.device);
                Box::new(agree(collective, extractor, code)?)
            }
        };
        let identities = collective.all_gather(format!("{:?}", extractor.identity()).as_bytes())?;
        let same = match identities.iter().position(|other| *other != identities[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::Refused(format!(
                "rank {rank} reads other weights of the network of features than rank 0; give all hosts the same file"
            ))),
        };
        agree(collective, same, code)?;
        Ok(extractor)
    }
}
