//! The kinds of containers.

/// The kind of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A tree of image files.
    Tree,
    /// Tar files: WebDataset shards, plain archives, archives of archives.
    Tar,
    /// Zip files.
    Zip,
    /// A file of numpy arrays, `arr_0` with images and optionally `arr_1` with labels.
    Npz,
    /// An LMDB database, as LSUN has them.
    Lmdb,
    /// Parquet files with a column of images.
    Parquet,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [Self::Tree, Self::Tar, Self::Zip, Self::Npz, Self::Lmdb, Self::Parquet];

    /// Returns the ending of its files' names; `None` for a tree.
    pub(crate) fn ending(self) -> Option<&'static str> {
        match self {
            Self::Tree => None,
            Self::Tar => Some("tar"),
            Self::Zip => Some("zip"),
            Self::Npz => Some("npz"),
            Self::Lmdb => Some("mdb"),
            Self::Parquet => Some("parquet"),
        }
    }

    /// Returns its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tree => "folder",
            Self::Tar => "tar",
            Self::Zip => "zip",
            Self::Npz => "npz",
            Self::Lmdb => "lmdb",
            Self::Parquet => "parquet",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the kind of container that a file's name tells by its ending.
    #[must_use]
    pub fn of_name(file: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.has(file))
    }

    /// Returns whether a file's name ends as those of this kind.
    pub(crate) fn has(self, file: &str) -> bool {
        self.ending()
            .is_some_and(|ending| file.rsplit_once('.').is_some_and(|(_, other)| other.eq_ignore_ascii_case(ending)))
    }

    /// Returns whether a file is beside those of this kind and has no images: the lock of an LMDB database, or DALI's index
    /// of a tar file.
    pub(crate) fn is_beside(self, file: &str) -> bool {
        let name = file.rsplit('/').next().unwrap_or(file);
        match self {
            Self::Lmdb => name == "lock.mdb",
            Self::Tar => name.ends_with(".idx"),
            Self::Tree | Self::Zip | Self::Npz | Self::Parquet => false,
        }
    }
}
