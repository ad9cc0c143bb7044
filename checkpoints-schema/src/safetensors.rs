//! The bytes of a checkpoint's safetensors files: the length of the header in eight bytes, the JSON header, the values.

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use crate::manifest::TensorRecord;
use crate::role::Role;

/// Returns the bytes before the values of a file that holds float32 tensors of these names and shapes, one after the
/// other.
#[must_use]
pub fn header<'a>(role: Role, step: u64, tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> Vec<u8> {
    let mut entries = Map::new();
    // Common loaders look for "format". The other entries identify the file without its manifest.
    let metadata = json!({"format": "pt", "role": role.folder(), "step": step.to_string()});
    entries.insert("__metadata__".to_owned(), metadata);
    let mut offset = 0;
    for (name, shape) in tensors {
        let end = offset + 4 * shape.iter().product::<usize>();
        entries.insert(name.to_owned(), json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    // The values start at a multiple of eight bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// Returns the values of the tensors in `records`, in that order, from the bytes of `file`.
///
/// # Errors
/// If the file lacks a tensor, or holds it with another type or shape. The text names the difference.
pub fn values_of<'a>(file: &'a [u8], records: &[&TensorRecord]) -> Result<Vec<&'a [u8]>, String> {
    let tensors = SafeTensors::deserialize(file).map_err(|error| format!("it is no safetensors file: {error}"))?;
    records
        .iter()
        .map(|record| {
            let tensor = tensors.tensor(&record.name).map_err(|_| format!("it lacks {}", record.name))?;
            if tensor.dtype() != safetensors::Dtype::F32 {
                return Err(format!("{} is {:?} and the manifest says F32", record.name, tensor.dtype()));
            }
            if tensor.shape() != record.shape {
                return Err(format!(
                    "{} has shape {:?} and the manifest says {:?}",
                    record.name,
                    tensor.shape(),
                    record.shape
                ));
            }
            Ok(tensor.data())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manifest::Dtype;

    fn record(name: &str, shape: &[usize]) -> TensorRecord {
        let (name, file, shape) = (name.to_owned(), String::new(), shape.to_vec());
        TensorRecord { role: Role::Master, name, file, shape, dtype: Dtype::F32 }
    }

    #[test]
    fn values_are_found_by_name_and_differences_are_reported() {
        let (b, a) = ([1.0_f32, -2.5, 3.0, f32::MIN_POSITIVE], [7.0_f32]);
        let shapes: [(&str, &[usize]); 2] = [("b", &[2, 2]), ("a", &[])];
        let mut file = header(Role::Master, 20, shapes.into_iter());
        assert_eq!(file.len() % 8, 0);
        file.extend(b.iter().chain(&a).flat_map(|value| value.to_le_bytes()));
        let (first, second) = (record("a", &[]), record("b", &[2, 2]));
        let found = values_of(&file, &[&first, &second]).unwrap();
        assert_eq!(found[1].as_chunks::<4>().0, b.map(f32::to_le_bytes));
        assert_eq!(found[0], a[0].to_le_bytes());
        assert!(values_of(&file, &[&record("c", &[])]).unwrap_err().contains("lacks c"));
        assert!(values_of(&file, &[&record("b", &[4])]).unwrap_err().contains("[4]"));
        assert!(values_of(&file[..20], &[&first]).is_err());
    }
}
