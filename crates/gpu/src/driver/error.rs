//! Errors of the driver.

use crate::library::LibraryError;

/// An error of the driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The driver is not available.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A call failed.
    #[error("{call} failed{}: {name} ({code}), {description}{}", on(*.device), advice(*.code))]
    Call {
        /// The driver's function.
        call: &'static str,
        /// The index of the device, if the call used one.
        device: Option<usize>,
        /// CUDA's error code.
        code: i32,
        /// The name of the error code.
        name: String,
        /// CUDA's description of the error.
        description: String,
    },
    /// There is no device with this index.
    #[error("there is no GPU {ordinal}: the driver sees {count} (CUDA_VISIBLE_DEVICES says which it may see)")]
    NoDevice {
        /// The requested index.
        ordinal: usize,
        /// The number of devices.
        count: usize,
    },
}

fn on(device: Option<usize>) -> String {
    device.map(|ordinal| format!(" on GPU {ordinal}")).unwrap_or_default()
}

/// Returns advice for common errors.
fn advice(code: i32) -> &'static str {
    match code {
        2 => "; another process may hold the memory: nvidia-smi lists them",
        100 => "; no GPU can be seen: look at nvidia-smi, at CUDA_VISIBLE_DEVICES, and at the container's --gpus",
        // The context is lost after ECC errors, hardware stack errors, illegal addresses and similar errors.
        214 | 700 | 702 | 714 | 715 | 716 | 717 | 718 | 719 => {
            "; this process cannot use the GPU any more: start again, and look at `dmesg | grep Xid` where it repeats"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_contain_the_call_the_device_the_description_and_advice() {
        let error = DriverError::Call {
            call: "cuLaunchKernel",
            device: Some(3),
            code: 700,
            name: "CUDA_ERROR_ILLEGAL_ADDRESS".into(),
            description: "an illegal memory access was encountered".into(),
        };
        let text = error.to_string();
        assert!(
            text.starts_with("cuLaunchKernel failed on GPU 3: CUDA_ERROR_ILLEGAL_ADDRESS (700), an illegal"),
            "{text}"
        );
        assert!(text.contains("Xid"), "{text}");
        let text = DriverError::NoDevice { ordinal: 8, count: 4 }.to_string();
        assert_eq!(text, "there is no GPU 8: the driver sees 4 (CUDA_VISIBLE_DEVICES says which it may see)");
    }
}
