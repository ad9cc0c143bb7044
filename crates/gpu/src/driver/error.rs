//! Errors of the driver.

use crate::library::LibraryError;

/// What the driver refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The driver is not at hand.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A call failed.
    #[error("{call} failed{}: {name} ({code}), {word}{}", on(*.device), advice(*.code))]
    Call {
        /// The function.
        call: &'static str,
        /// The device's number, where the call was about one.
        device: Option<usize>,
        /// CUDA's number of the failure.
        code: i32,
        /// Its name.
        name: String,
        /// CUDA's sentence about it.
        word: String,
    },
    /// There is no device of this number.
    #[error("there is no GPU {ordinal}: the driver sees {count} (CUDA_VISIBLE_DEVICES says which it may see)")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
}

fn on(device: Option<usize>) -> String {
    device.map(|ordinal| format!(" on GPU {ordinal}")).unwrap_or_default()
}

/// What to do about failures that users meet.
fn advice(code: i32) -> &'static str {
    match code {
        2 => "; another process may hold the memory: nvidia-smi lists them",
        100 => "; no GPU can be seen: look at nvidia-smi, at CUDA_VISIBLE_DEVICES, and at the container's --gpus",
        // ECC errors, hardware stack errors, illegal addresses and the like: the context is lost.
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
    fn failures_say_the_call_the_device_cudas_word_and_what_to_do() {
        let error = DriverError::Call {
            call: "cuLaunchKernel",
            device: Some(3),
            code: 700,
            name: "CUDA_ERROR_ILLEGAL_ADDRESS".into(),
            word: "an illegal memory access was encountered".into(),
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
