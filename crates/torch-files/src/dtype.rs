//! Data types.

/// The data type of a tensor, by its name in safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
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
    /// Returns the size of a value in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Returns the type of a PyTorch storage by the name of its class in `torch`: `FloatStorage`.
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

    /// Returns the type by its name in `torch`: `float32`.
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

    /// Converts little-endian `bytes` to float32 `values`. Returns the number of values that float32 cannot represent
    /// exactly; those are rounded to nearest.
    pub(crate) fn to_f32(self, bytes: &[u8], values: &mut [f32]) -> usize {
        let mut rounded = 0;
        macro_rules! each {
            ($number:ty, $convert:expr) => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = $convert(<$number>::from_le_bytes(*bytes));
                }
            };
            ($number:ty, $convert:expr, $back:expr) => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    let number = <$number>::from_le_bytes(*bytes);
                    *value = $convert(number);
                    rounded += usize::from(!$back(*value, number));
                }
            };
        }
        match self {
            Self::F64 => each!(f64, |x| x as f32, |y, x: f64| f64::from(y) == x || x.is_nan()),
            Self::F32 => each!(f32, |x| x),
            Self::F16 => each!(half::f16, half::f16::to_f32),
            Self::BF16 => each!(half::bf16, half::bf16::to_f32),
            // Compared as 128-bit integers, because a comparison as float32 would round.
            Self::I64 => each!(i64, |x| x as f32, |y, x| y as i128 == i128::from(x)),
            Self::I32 => each!(i32, |x| x as f32, |y, x| y as i128 == i128::from(x)),
            Self::U64 => each!(u64, |x| x as f32, |y, x| y as i128 == i128::from(x)),
            Self::U32 => each!(u32, |x| x as f32, |y, x| y as i128 == i128::from(x)),
            Self::I16 => each!(i16, f32::from),
            Self::I8 => each!(i8, f32::from),
            Self::U16 => each!(u16, f32::from),
            Self::U8 => each!(u8, f32::from),
            Self::Bool => each!(u8, |x| if x == 0 { 0.0 } else { 1.0 }),
        }
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the converted values and the number of rounded ones.
    fn as_f32(dtype: Dtype, bytes: &[u8]) -> (Vec<f32>, usize) {
        let mut values = vec![0.0; bytes.len() / dtype.size()];
        let rounded = dtype.to_f32(bytes, &mut values);
        (values, rounded)
    }

    #[test]
    fn every_type_is_converted_to_float32() {
        assert_eq!(as_f32(Dtype::F16, &0x7bff_u16.to_le_bytes()), (vec![65504.0], 0));
        assert_eq!(as_f32(Dtype::F16, &0x0001_u16.to_le_bytes()), (vec![2.0_f32.powi(-24)], 0));
        assert_eq!(as_f32(Dtype::BF16, &0xc0a0_u16.to_le_bytes()), (vec![-5.0], 0));
        assert_eq!(as_f32(Dtype::F64, &[0.1_f64.to_le_bytes(), 0.5_f64.to_le_bytes()].concat()), (vec![0.1, 0.5], 1));
        assert_eq!(as_f32(Dtype::F64, &f64::NEG_INFINITY.to_le_bytes()), (vec![f32::NEG_INFINITY], 0));
        assert_eq!(as_f32(Dtype::F64, &1e300_f64.to_le_bytes()), (vec![f32::INFINITY], 1));
        assert_eq!(as_f32(Dtype::I64, &(-3_i64).to_le_bytes()), (vec![-3.0], 0));
        assert_eq!(as_f32(Dtype::I64, &i64::MAX.to_le_bytes()), (vec![9_223_372_036_854_775_808.0], 1));
        assert_eq!(as_f32(Dtype::I32, &[(-7_i32).to_le_bytes(), 16_777_217_i32.to_le_bytes()].concat()).1, 1);
        assert_eq!(as_f32(Dtype::I16, &(-300_i16).to_le_bytes()), (vec![-300.0], 0));
        assert_eq!(as_f32(Dtype::I8, &[0x80, 5]), (vec![-128.0, 5.0], 0));
        assert_eq!(as_f32(Dtype::U64, &(1_u64 << 63).to_le_bytes()), (vec![9_223_372_036_854_775_808.0], 0));
        assert_eq!(as_f32(Dtype::U32, &u32::MAX.to_le_bytes()), (vec![4_294_967_296.0], 1));
        assert_eq!(as_f32(Dtype::U16, &u16::MAX.to_le_bytes()), (vec![65535.0], 0));
        assert_eq!(as_f32(Dtype::U8, &[255]), (vec![255.0], 0));
        assert_eq!(as_f32(Dtype::Bool, &[0, 1, 2]), (vec![0.0, 1.0, 1.0], 0));
        assert_eq!(as_f32(Dtype::F32, &[0, 0, 0x80, 0xff]), (vec![f32::NEG_INFINITY], 0));
    }
}
