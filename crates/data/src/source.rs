//! The seam between where images lie and what training sees.

use std::fmt::Debug;

use super::error::DataError;
use super::pixels::Pixels;

/// A finite set of images, in a fixed order.
pub trait ImageSource: Debug + Send + Sync {
    /// The number of images; never 0.
    fn num_images(&self) -> u64;

    /// The number of classes; 0 where the images have none.
    fn num_classes(&self) -> usize;

    /// What to call image `item` in a message.
    fn name(&self, item: u64) -> String;

    /// The class of image `item`, where the images have classes.
    fn class(&self, item: u64) -> Option<i64>;

    /// Whether images smaller than the samples get a black border, as digits do, where photographs are enlarged.
    fn is_padded(&self) -> bool {
        false
    }

    /// Reads and decodes image `item`, as it is stored.
    ///
    /// # Errors
    /// [`DataError::Broken`] when it cannot be read or decoded.
    fn load(&self, item: u64) -> Result<Pixels, DataError>;
}

/// Some images of another source: one side of a validation split.
#[derive(Debug)]
pub struct Subset {
    source: std::sync::Arc<dyn ImageSource>,
    items: Vec<u64>,
}

impl Subset {
    /// The images `items` of `source`; none is no source.
    #[must_use]
    pub fn new(source: std::sync::Arc<dyn ImageSource>, items: Vec<u64>) -> Option<Self> {
        (!items.is_empty()).then_some(Self { source, items })
    }
}

impl ImageSource for Subset {
    fn num_images(&self) -> u64 {
        self.items.len() as u64
    }

    fn num_classes(&self) -> usize {
        self.source.num_classes()
    }

    fn name(&self, item: u64) -> String {
        self.source.name(self.items[item as usize])
    }

    fn class(&self, item: u64) -> Option<i64> {
        self.source.class(self.items[item as usize])
    }

    fn is_padded(&self) -> bool {
        self.source.is_padded()
    }

    fn load(&self, item: u64) -> Result<Pixels, DataError> {
        self.source.load(self.items[item as usize])
    }
}
