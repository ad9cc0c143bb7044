//! The published files of these weights, and where to get them.

/// The environment variable that names the file of weights.
pub const VARIABLE: &str = "ADMIRAL_INCEPTION";

/// A published file.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownFile {
    /// Where it is published, and the names that it has there.
    pub name: &'static str,
    /// Its SHA-256, as hexadecimal digits.
    pub sha256: &'static str,
}

/// The published files whose digests are known. The names of these files end in the first digits of their SHA-256.
pub(crate) const KNOWN_FILES: &[KnownFile] = &[KnownFile {
    name: "pt_inception-2015-12-05-6726825d.pth of pytorch-fid, which torch-fidelity calls \
           weights-inception-2015-12-05-6726825d.pth",
    sha256: "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
}];

/// Returns the text that tells which file to get, where from, and where to put it.
#[must_use]
pub fn how_to_get() -> String {
    format!(
        "no Inception weights are given, and nothing is downloaded by itself. Get one of these files:\n  \
         pt_inception-2015-12-05-6726825d.pth from the release fid_weights of pytorch-fid \
         (github.com/mseitzer/pytorch-fid)\n  \
         weights-inception-2015-12-05-6726825d.pth from the release v0.2.0 of torch-fidelity \
         (github.com/toshas/torch-fidelity)\n  \
         classify_image_graph_def.pb out of TensorFlow's inception-2015-12-05.tgz \
         (download.tensorflow.org/models/image/imagenet)\n\
         Then set {VARIABLE} to its path. `admiral evaluate weights FILE` tells whether a file is right."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_fit_the_names_of_the_files() {
        for known in KNOWN_FILES {
            assert_eq!(known.sha256.len(), 64);
            assert!(known.name.contains(&known.sha256[..8]), "{}", known.name);
        }
        assert!(how_to_get().contains("ADMIRAL_INCEPTION") && how_to_get().contains("classify_image_graph_def.pb"));
    }
}
