//! The GPUs of this host, as the driver lists them in files. Reading these opens no GPU.

use admiral_plan::GpuKind;

/// The folder in which the driver has a folder for each GPU.
const DRIVER_FOLDER: &str = "/proc/driver/nvidia/gpus";

/// The GPUs of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostGpus {
    /// There are none.
    None,
    /// All are of one kind that plans know.
    Known {
        /// The kind.
        kind: GpuKind,
        /// The number of GPUs.
        number: u64,
    },
    /// The model of a GPU that plans do not know, or that differs from the others.
    Unknown {
        /// The name of the model.
        model: String,
    },
}

impl HostGpus {
    /// Returns the GPUs of this host.
    #[must_use]
    pub fn of_this_host() -> Self {
        let Ok(folders) = std::fs::read_dir(DRIVER_FOLDER) else { return Self::None };
        let texts = folders.filter_map(|folder| std::fs::read_to_string(folder.ok()?.path().join("information")).ok());
        Self::listed(texts)
    }

    /// Returns the kind of the GPUs, if plans know it.
    #[must_use]
    pub fn kind(&self) -> Option<GpuKind> {
        match self {
            Self::Known { kind, .. } => Some(*kind),
            Self::None | Self::Unknown { .. } => None,
        }
    }

    fn listed(information: impl Iterator<Item = String>) -> Self {
        let mut found = Self::None;
        for text in information {
            let model = text.lines().find_map(|line| line.strip_prefix("Model:")).unwrap_or("without a name").trim();
            found = match (found, GpuKind::of_device(model)) {
                (Self::None, Some(kind)) => Self::Known { kind, number: 1 },
                (Self::Known { kind, number }, Some(other)) if kind == other => {
                    Self::Known { kind, number: number + 1 }
                }
                (unknown @ Self::Unknown { .. }, _) => unknown,
                _ => Self::Unknown { model: model.to_owned() },
            };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_gpus_of_one_known_kind_is_recognized() {
        let information = |model: &&str| format!("Model: \t\t {model}\nIRQ:   \t\t 211\nVideo BIOS: \t 96.00.a5\n");
        let found = |models: &[&str]| HostGpus::listed(models.iter().map(information));
        assert_eq!(found(&["NVIDIA H100 80GB HBM3"; 8]), HostGpus::Known { kind: GpuKind::H100, number: 8 });
        let unknown = |model: &str| HostGpus::Unknown { model: model.into() };
        assert_eq!(found(&["NVIDIA H100 80GB HBM3", "NVIDIA H200"]), unknown("NVIDIA H200"));
        assert_eq!(found(&["NVIDIA GeForce RTX 3090", "NVIDIA H200"]), unknown("NVIDIA GeForce RTX 3090"));
        assert_eq!((found(&[]), found(&[]).kind()), (HostGpus::None, None));
    }
}
