//! The interface of sources of images.

use std::fmt::Debug;
use std::sync::Arc;

use super::error::DataError;
use super::pixels::Pixels;

/// A finite set of images, in a fixed order.
pub trait ImageSource: Debug + Send + Sync {
    /// Returns the number of images. It is never 0.
    fn num_images(&self) -> u64;

    /// Returns the number of classes. It is 0 if the images have no classes.
    fn num_classes(&self) -> usize;

    /// Returns the name of the image `item` for messages.
    fn name(&self, item: u64) -> String;

    /// Returns the class of the image `item`, or `None` if the images have no classes.
    fn class(&self, item: u64) -> Option<i64>;

    /// Returns whether images that are smaller than the samples get a black border, which suits digits. Otherwise they
    /// are enlarged, which suits photographs.
    fn is_padded(&self) -> bool {
        false
    }

    /// Reads and decodes the image `item`, in its stored size.
    ///
    /// # Errors
    /// [`DataError::Broken`] if it cannot be read or decoded.
    fn load(&self, item: u64) -> Result<Pixels, DataError>;
}

/// A subset of the images of another source, for example those for validation.
#[derive(Debug)]
pub struct Subset {
    source: Arc<dyn ImageSource>,
    items: Vec<u64>,
}

impl Subset {
    /// Returns the images `items` of `source`, or `None` if `items` is empty.
    #[must_use]
    pub fn new(source: Arc<dyn ImageSource>, items: Vec<u64>) -> Option<Self> {
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
