//! Writes containers for tests with the libraries that others use.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::Path;
use std::sync::Arc;

use lmdb::{DatabaseFlags, Environment, Transaction, WriteFlags};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

/// Writes an LMDB database into a folder. `named` are the keys and values of a named database in it.
pub fn write_lmdb(folder: &Path, entries: &[(&[u8], &[u8])], named: &[(&[u8], &[u8])]) {
    std::fs::create_dir_all(folder).unwrap();
    let environment = Environment::new().set_map_size(1 << 30).set_max_dbs(1).open(folder).unwrap();
    let database = environment.open_db(None).unwrap();
    let mut transaction = environment.begin_rw_txn().unwrap();
    for (key, value) in entries {
        transaction.put(database, key, value, WriteFlags::empty()).unwrap();
    }
    transaction.commit().unwrap();
    if !named.is_empty() {
        let database = environment.create_db(Some("named"), DatabaseFlags::empty()).unwrap();
        let mut transaction = environment.begin_rw_txn().unwrap();
        for (key, value) in named {
            transaction.put(database, key, value, WriteFlags::empty()).unwrap();
        }
        transaction.commit().unwrap();
    }
}

/// A row of a Parquet file.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub bytes: Option<&'a [u8]>,
    pub path: Option<&'a str>,
    pub label: Option<i64>,
}

/// How a Parquet file is written.
pub struct Format<'a> {
    pub compression: Compression,
    pub has_dictionary: bool,
    pub is_v2: bool,
    pub row_group: usize,
    /// The names of the classes, in the metadata of Hugging Face.
    pub class_names: &'a [&'a str],
}

impl Default for Format<'_> {
    fn default() -> Self {
        let compression = Compression::SNAPPY;
        Self { compression, has_dictionary: true, is_v2: false, row_group: 7, class_names: &[] }
    }
}

/// Returns a Parquet file in the form of Hugging Face.
pub fn parquet_of(rows: &[Row<'_>], format: &Format<'_>) -> Vec<u8> {
    let schema = "message schema {
        optional group image { optional binary bytes; optional binary path (UTF8); }
        optional int64 label;
    }";
    let features = serde_json::json!({ "info": { "features": { "label": { "names": format.class_names } } } });
    let entry = KeyValue::new("huggingface".to_owned(), features.to_string());
    let properties = WriterProperties::builder()
        .set_compression(format.compression)
        .set_dictionary_enabled(format.has_dictionary)
        .set_writer_version(if format.is_v2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
        .set_data_page_row_count_limit(3)
        .set_write_batch_size(1)
        .set_key_value_metadata((!format.class_names.is_empty()).then(|| vec![entry]))
        .build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(format.row_group) {
        let mut group = writer.next_row_group().unwrap();
        write_column::<ByteArrayType>(&mut group, rows.iter().map(|row| row.bytes.map(|it| it.to_vec().into())), 2);
        write_column::<ByteArrayType>(&mut group, rows.iter().map(|row| row.path.map(ByteArray::from)), 2);
        write_column::<Int64Type>(&mut group, rows.iter().map(|row| row.label), 1);
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: impl Iterator<Item = Option<T::T>>,
    level: i16,
) {
    let values: Vec<Option<T::T>> = values.collect();
    let levels: Vec<i16> = values.iter().map(|value| if value.is_some() { level } else { level - 1 }).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(&values, Some(&levels), None).unwrap();
    column.close().unwrap();
}
