//! The columns of a Parquet file that have the images, their paths and their labels.

use parquet::basic::Type;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::ColumnDescriptor;

/// The names of the column of images.
const IMAGES: [&str; 2] = ["image", "img"];

/// The numbers of the columns.
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) path: Option<usize>,
    pub(super) label: Option<usize>,
    /// The names of the classes in the order of their numbers, if the metadata have them.
    pub(super) class_names: Option<Vec<Vec<u8>>>,
}

impl Columns {
    /// Finds the columns. Returns what is wrong otherwise.
    pub(super) fn of(metadata: &ParquetMetaData) -> Result<Self, String> {
        let schema = metadata.file_metadata().schema_descr();
        let columns = schema.columns();
        let parts = |column: &ColumnDescriptor| column.path().parts().to_vec();
        let with_path = |path: &[&str]| columns.iter().position(|column| parts(column) == *path);
        let named = IMAGES.iter().find_map(|name| with_path(&[name, "bytes"]).or_else(|| with_path(&[name])));
        let image = named.map_or_else(
            || {
                let is_bytes = |place: &usize| matches!(&parts(&columns[*place])[..], [_, last] if last == "bytes");
                let mut all = (0..columns.len()).filter(is_bytes);
                match (all.next(), all.next()) {
                    (Some(only), None) => Ok(only),
                    (Some(_), Some(_)) => Err("it has several columns of images, and none is named image".to_owned()),
                    (None, _) => {
                        let names = columns.iter().take(8).map(|column| column.path().string()).collect::<Vec<_>>();
                        let names = names.join(", ");
                        Err(format!("it has no column image with the fields bytes and path; its columns are {names}"))
                    }
                }
            },
            Ok,
        )?;
        let check = |place: usize, types: &[Type]| {
            let column = &columns[place];
            let name = column.path().string();
            if column.max_rep_level() > 0 {
                return Err(format!("its column {name} has lists; write one image for each row"));
            }
            if !types.contains(&column.physical_type()) {
                return Err(format!("its column {name} has the type {}, which is not read", column.physical_type()));
            }
            Ok(place)
        };
        let image = check(image, &[Type::BYTE_ARRAY])?;
        let image_path = parts(&columns[image]);
        let path = match &image_path[..] {
            [name, _] => with_path(&[name, "path"]).map(|place| check(place, &[Type::BYTE_ARRAY])).transpose()?,
            _ => None,
        };
        let label = with_path(&["label"]);
        let label = label.map(|place| check(place, &[Type::INT32, Type::INT64, Type::BYTE_ARRAY])).transpose()?;
        let is_number = label.is_some_and(|place| columns[place].physical_type() != Type::BYTE_ARRAY);
        let class_names = if is_number { class_names(metadata) } else { None };
        Ok(Self { image, path, label, class_names })
    }
}

/// Returns the names of the classes in the metadata of Hugging Face.
fn class_names(metadata: &ParquetMetaData) -> Option<Vec<Vec<u8>>> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    let text = entries.iter().find(|entry| entry.key == "huggingface")?.value.as_ref()?;
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let names = value.pointer("/info/features/label/names")?.as_array()?;
    names.iter().map(|name| Some(name.as_str()?.as_bytes().to_vec())).collect()
}
