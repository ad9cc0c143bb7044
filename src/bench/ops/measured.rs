//! The measurement of one operation.

use serde::Serialize;

use crate::bench::roofline::Roofline;
use crate::statistics::Spread;

/// The name of the data type that is not half precision.
pub(super) const FLOAT: &str = "float32";

/// The measurement of an operation in one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Measured {
    pub(super) operation: &'static str,
    pub(super) case: String,
    pub(super) kind: &'static str,
    pub(super) seconds: Spread,
    /// The bytes that the operation must read and write.
    pub(super) bytes: Option<u64>,
    /// Whether most of these bytes change in place.
    pub(super) in_place: bool,
    pub(super) flops: Option<u64>,
    /// The alternative, which takes `ratio` times as long.
    pub(super) against: Option<String>,
    pub(super) ratio: Option<Spread>,
}

impl Measured {
    /// Returns the part of the roofline that the operation reaches.
    pub(super) fn share(&self, roofline: &Roofline) -> Option<f64> {
        let memory = if self.in_place { &roofline.in_place_bytes_per_second } else { &roofline.copy_bytes_per_second };
        let bytes = self.bytes.map(|bytes| bytes as f64 / self.seconds.median / memory.median);
        let rate = if self.kind == FLOAT { &roofline.float_flops } else { &roofline.half_flops };
        bytes.or(self.flops.map(|flops| flops as f64 / self.seconds.median / rate.median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_uses_the_roofline_of_memory_or_of_arithmetic() {
        let flat = |median: f64| Spread { median, least: median, most: median };
        let roofline = Roofline {
            copy_bytes_per_second: flat(1e9),
            in_place_bytes_per_second: flat(2e9),
            float_flops: flat(1e10),
            half_flops: flat(4e10),
        };
        let memory_bound = Measured {
            operation: "",
            case: String::new(),
            kind: FLOAT,
            seconds: flat(2.0),
            bytes: Some(1_000_000_000),
            in_place: false,
            flops: None,
            against: None,
            ratio: None,
        };
        assert_eq!(memory_bound.share(&roofline), Some(0.5));
        assert_eq!(Measured { in_place: true, ..memory_bound.clone() }.share(&roofline), Some(0.25));
        let compute_bound = Measured { kind: "bfloat16", bytes: None, flops: Some(8_000_000_000), ..memory_bound };
        assert_eq!(compute_bound.share(&roofline), Some(0.1));
    }
}
