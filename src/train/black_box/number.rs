//! Floating-point numbers in JSON, of which JSON has only the finite ones.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number that may be an infinity or NaN. In JSON those are the strings `"inf"`, `"-inf"` and `"nan"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(pub f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_finite() { write!(f, "{:.6e}", self.0) } else { f.write_str(self.word()) }
    }
}

impl Number {
    fn word(self) -> &'static str {
        match self.0 {
            value if value.is_nan() => "nan",
            value if value > 0.0 => "inf",
            _ => "-inf",
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f64(self.0) } else { serializer.serialize_str(self.word()) }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Finite(f64),
    Word(String),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Finite(value) => Ok(Self(value)),
            Written::Word(word) => match word.as_str() {
                "nan" => Ok(Self(f64::NAN)),
                "inf" => Ok(Self(f64::INFINITY)),
                "-inf" => Ok(Self(f64::NEG_INFINITY)),
                _ => Err(serde::de::Error::custom(format!("{word:?} is not a number, \"nan\", \"inf\" or \"-inf\""))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_number_is_read_back() {
        let values = [0.0, -1.5e-300, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(Number);
        let text = serde_json::to_string(&values).unwrap();
        assert!(text.ends_with(r#""inf","-inf","nan"]"#), "{text}");
        let read: Vec<Number> = serde_json::from_str(&text).unwrap();
        assert!(values.iter().zip(&read).all(|(a, b)| a.0.to_bits() == b.0.to_bits() || a.0.is_nan() && b.0.is_nan()));
        let error = serde_json::from_str::<Number>("\"many\"").unwrap_err().to_string();
        assert!(error.contains("\"many\""), "{error}");
    }
}
