//! The types of values.

/// The type of a tensor's values, by safetensors' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes of one value.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The type of a storage of PyTorch's by the name of its class in `torch`: `FloatStorage`.
    pub(crate) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }

    /// The type by its name in `torch`: `float32`.
    pub(crate) fn of_torch(name: &str) -> Option<Self> {
        Some(match name {
            "float64" | "double" => Self::F64,
            "float32" | "float" => Self::F32,
            "float16" | "half" => Self::F16,
            "bfloat16" => Self::BF16,
            "int64" | "long" => Self::I64,
            "int32" | "int" => Self::I32,
            "int16" | "short" => Self::I16,
            "int8" => Self::I8,
            "uint64" => Self::U64,
            "uint32" => Self::U32,
            "uint16" => Self::U16,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            _ => return None,
        })
    }

    /// Calls `put` with each value of little-endian `bytes` as float32, rounded to nearest where float32 has no such
    /// value. A last value that is not whole is passed over.
    pub(crate) fn each_f32(self, bytes: &[u8], mut put: impl FnMut(f32)) {
        macro_rules! each {
            ($bytes:literal, $convert:expr) => {{
                let convert = $convert;
                bytes.as_chunks::<$bytes>().0.iter().for_each(|&value| put(convert(value)))
            }};
        }
        match self {
            Self::F64 => each!(8, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => each!(4, f32::from_le_bytes),
            Self::F16 => each!(2, |b| half::f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each!(2, |b| half::bf16::from_le_bytes(b).to_f32()),
            Self::I64 => each!(8, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => each!(4, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => each!(2, |b| f32::from(i16::from_le_bytes(b))),
            Self::I8 => each!(1, |b| f32::from(i8::from_le_bytes(b))),
            Self::U64 => each!(8, |b| u64::from_le_bytes(b) as f32),
            Self::U32 => each!(4, |b| u32::from_le_bytes(b) as f32),
            Self::U16 => each!(2, |b| f32::from(u16::from_le_bytes(b))),
            Self::U8 => each!(1, |[b]: [u8; 1]| f32::from(b)),
            Self::Bool => each!(1, |[b]: [u8; 1]| if b == 0 { 0.0 } else { 1.0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut values = Vec::new();
        dtype.each_f32(bytes, |value| values.push(value));
        values
    }

    #[test]
    fn every_type_becomes_float32() {
        assert_eq!(as_f32(Dtype::F16, &0x7bff_u16.to_le_bytes()), [65504.0]);
        assert_eq!(as_f32(Dtype::F16, &0x0001_u16.to_le_bytes()), [2.0_f32.powi(-24)]);
        assert_eq!(as_f32(Dtype::BF16, &0xc0a0_u16.to_le_bytes()), [-5.0]);
        assert_eq!(as_f32(Dtype::F64, &0.1_f64.to_le_bytes()), [0.1]);
        assert_eq!(as_f32(Dtype::I64, &(-3_i64).to_le_bytes()), [-3.0]);
        assert_eq!(as_f32(Dtype::I32, &[(-7_i32).to_le_bytes(), 9_i32.to_le_bytes()].concat()), [-7.0, 9.0]);
        assert_eq!(as_f32(Dtype::I16, &(-300_i16).to_le_bytes()), [-300.0]);
        assert_eq!(as_f32(Dtype::I8, &[0x80, 5]), [-128.0, 5.0]);
        assert_eq!(as_f32(Dtype::U64, &u64::MAX.to_le_bytes()), [18_446_744_073_709_551_615.0]);
        assert_eq!(as_f32(Dtype::U32, &u32::MAX.to_le_bytes()), [4_294_967_295.0]);
        assert_eq!(as_f32(Dtype::U16, &u16::MAX.to_le_bytes()), [65535.0]);
        assert_eq!(as_f32(Dtype::U8, &[255]), [255.0]);
        assert_eq!(as_f32(Dtype::Bool, &[0, 1, 2]), [0.0, 1.0, 1.0]);
        assert_eq!(as_f32(Dtype::F32, &[0, 0, 0x80, 0xff, 1]), [f32::NEG_INFINITY]);
    }
}
