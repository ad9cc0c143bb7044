//! Images that are left out: those of hidden files, and those of formats that are not read.

use crate::names::{is_hidden, is_image_name, is_other_image_name, shown};

/// How many files are left out for one reason, and the name of the first one.
#[derive(Debug, Default)]
struct Sort {
    num: u64,
    first: Vec<u8>,
}

impl Sort {
    fn add(&mut self, name: &[u8]) {
        if self.num == 0 {
            self.first = name.to_vec();
        }
        self.num += 1;
    }
}

/// Counts the images of a place that are left out.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    hidden: Sort,
    other: Sort,
}

impl LeftOut {
    /// Counts a file that is left out, if its name is that of an image.
    pub(crate) fn add(&mut self, name: &[u8]) {
        if is_hidden(name) {
            if is_image_name(name) || is_other_image_name(name) {
                self.hidden.add(name);
            }
        } else if is_other_image_name(name) {
            self.other.add(name);
        }
    }

    /// Counts a hidden folder, which may hold images.
    pub(crate) fn add_hidden_folder(&mut self, name: &[u8]) {
        self.hidden.add(name);
    }

    /// Returns the number of images of formats that are not read.
    #[cfg(test)]
    pub(crate) fn num_other(&self) -> u64 {
        self.other.num
    }

    /// Says how many images of a place were left out, if any.
    pub(crate) fn say(&self, place: &str) {
        let Self { hidden, other } = self;
        if hidden.num > 0 {
            let (num, first) = (hidden.num, shown(&hidden.first));
            tracing::info!("{place}: {num} hidden images or folders are left out, the first is {first}");
        }
        if other.num > 0 {
            let (num, first) = (other.num, shown(&other.first));
            tracing::warn!(
                "{place}: {num} images of formats that are not read are left out, the first is {first}; convert them to \
                 png to use them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_images_and_those_of_other_formats_are_counted_apart() {
        let mut left = LeftOut::default();
        for name in ["a.txt", "b/c.bmp", ".d.png", ".e/f.TIFF", "g.heic", ".h.txt", "bmp"] {
            left.add(name.as_bytes());
        }
        left.add_hidden_folder(b".i");
        assert_eq!((left.hidden.num, &left.hidden.first[..]), (3, &b".d.png"[..]));
        assert_eq!((left.num_other(), &left.other.first[..]), (2, &b"b/c.bmp"[..]));
    }
}
