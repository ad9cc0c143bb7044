//! TensorFlow's graph files, read without TensorFlow: a message `GraphDef`, whose nodes of the operation `Const` hold
//! tensors.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::wire::{Fields, Value, bytes_of};

/// The largest number of nodes that is read. The graph of the Inception network has about 1000.
const MAX_NODES: usize = 1 << 16;
/// The largest number of dimensions of a tensor that is read.
const MAX_DIMENSIONS: usize = 8;

/// The numbers of fields, by message.
mod number {
    pub(super) mod graph {
        pub(in super::super) const NODE: u64 = 1;
    }
    pub(super) mod node {
        pub(in super::super) const NAME: u64 = 1;
        pub(in super::super) const OPERATION: u64 = 2;
        pub(in super::super) const ATTRIBUTE: u64 = 5;
    }
    /// An entry of a map.
    pub(super) mod entry {
        pub(in super::super) const KEY: u64 = 1;
        pub(in super::super) const VALUE: u64 = 2;
    }
    pub(super) mod attribute {
        pub(in super::super) const FLOAT: u64 = 4;
        pub(in super::super) const BOOLEAN: u64 = 5;
        pub(in super::super) const TENSOR: u64 = 8;
    }
    pub(super) mod tensor {
        pub(in super::super) const TYPE: u64 = 1;
        pub(in super::super) const SHAPE: u64 = 2;
        pub(in super::super) const CONTENT: u64 = 4;
        pub(in super::super) const FLOATS: u64 = 5;
    }
    pub(super) mod shape {
        pub(in super::super) const DIMENSION: u64 = 2;
        pub(in super::super) const UNKNOWN_RANK: u64 = 3;
    }
    pub(super) mod dimension {
        pub(in super::super) const SIZE: u64 = 1;
    }
}

/// The member of TensorFlow's enumeration `DataType` for float32.
const FLOAT32: u64 = 1;

/// The nodes of a graph file.
#[derive(Debug)]
pub struct Graph<'a> {
    nodes: HashMap<&'a str, Node<'a>>,
}

#[derive(Debug)]
struct Node<'a> {
    operation: &'a str,
    message: &'a [u8],
}

impl<'a> Graph<'a> {
    /// Finds the nodes of a graph in the bytes of a file. It reads no tensors.
    ///
    /// # Errors
    /// If the bytes are no such message, two nodes have the same name, or there are more than 65,536. The text says
    /// which.
    pub fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut nodes = HashMap::new();
        for field in Fields::of(bytes) {
            let (number::graph::NODE, Value::Bytes(message)) = field? else { continue };
            let name = text(bytes_of(message, number::node::NAME)?)?;
            let operation = text(bytes_of(message, number::node::OPERATION)?)?;
            if nodes.len() == MAX_NODES {
                return Err(format!("it has more than {MAX_NODES} nodes"));
            }
            match nodes.entry(name) {
                Entry::Vacant(place) => place.insert(Node { operation, message }),
                Entry::Occupied(_) => return Err(format!("two nodes have the name {name:?}")),
            };
        }
        Ok(Self { nodes })
    }

    /// Returns the number of nodes.
    #[must_use]
    pub fn num_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the names of the nodes of the operation `Const`, in no particular order.
    pub fn constants(&self) -> impl Iterator<Item = &'a str> {
        self.nodes.iter().filter(|(_, node)| node.operation == "Const").map(|(name, _)| *name)
    }

    /// Returns the tensor of a node of the operation `Const`, or `None` if there is no such node.
    ///
    /// # Errors
    /// If its messages are broken, or it is no float32 tensor of up to 8 dimensions. The text says which.
    pub fn constant(&self, name: &str) -> Result<Option<Constant<'a>>, String> {
        let Some(node) = self.nodes.get(name).filter(|node| node.operation == "Const") else { return Ok(None) };
        let attribute = node.attribute("value")?.ok_or("it has no value")?;
        Constant::of(bytes_of(attribute, number::attribute::TENSOR)?.ok_or("its value is no tensor")?).map(Some)
    }

    /// Returns the operation of a node.
    #[must_use]
    pub fn operation(&self, name: &str) -> Option<&'a str> {
        self.nodes.get(name).map(|node| node.operation)
    }

    /// Returns an attribute of a node that is a float. An attribute that is left out is `None`.
    ///
    /// # Errors
    /// If its messages are broken.
    pub fn float(&self, name: &str, attribute: &str) -> Result<Option<f32>, String> {
        self.scalar(name, attribute, number::attribute::FLOAT, |value| match value {
            Value::Fixed32(bits) => Some(f32::from_bits(bits)),
            _ => None,
        })
    }

    /// Returns an attribute of a node that is a boolean. An attribute that is left out is `None`.
    ///
    /// # Errors
    /// If its messages are broken.
    pub fn boolean(&self, name: &str, attribute: &str) -> Result<Option<bool>, String> {
        self.scalar(name, attribute, number::attribute::BOOLEAN, |value| match value {
            Value::Varint(number) => Some(number != 0),
            _ => None,
        })
    }

    fn scalar<T>(
        &self,
        name: &str,
        attribute: &str,
        wanted: u64,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(node) = self.nodes.get(name) else { return Ok(None) };
        let Some(message) = node.attribute(attribute)? else { return Ok(None) };
        let mut found = None;
        for field in Fields::of(message) {
            let (number, value) = field?;
            if number == wanted {
                found = read(value).or(found);
            }
        }
        Ok(found)
    }
}

impl<'a> Node<'a> {
    /// Returns the message of an attribute.
    fn attribute(&self, wanted: &str) -> Result<Option<&'a [u8]>, String> {
        for field in Fields::of(self.message) {
            let (number::node::ATTRIBUTE, Value::Bytes(entry)) = field? else { continue };
            if bytes_of(entry, number::entry::KEY)? == Some(wanted.as_bytes()) {
                return bytes_of(entry, number::entry::VALUE);
            }
        }
        Ok(None)
    }
}

/// A float32 tensor of a graph.
#[derive(Debug, Clone)]
pub struct Constant<'a> {
    shape: Vec<usize>,
    message: &'a [u8],
}

impl<'a> Constant<'a> {
    fn of(message: &'a [u8]) -> Result<Self, String> {
        let (mut kind, mut shape) = (0, Vec::new());
        for field in Fields::of(message) {
            match field? {
                (number::tensor::TYPE, Value::Varint(number)) => kind = number,
                (number::tensor::SHAPE, Value::Bytes(bytes)) => shape = dimensions(bytes)?,
                _ => {}
            }
        }
        if kind != FLOAT32 {
            return Err(format!("its type has the number {kind} in TensorFlow, not 1 (float32)"));
        }
        Ok(Self { shape, message })
    }

    /// Returns the shape; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the values in row-major order. The caller must have compared [`Self::shape`] with what it expects: a
    /// file may name a large shape and hold a single value, which stands for all.
    ///
    /// # Errors
    /// If the file holds another number of values than the shape needs, or its messages are broken.
    pub fn values(&self) -> Result<Vec<f32>, String> {
        let count = self.shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        let count = count.ok_or("its number of values cannot be counted")?;
        let wrong = |found: usize| format!("it holds {found} values, and its shape {:?} needs {count}", self.shape);
        let (mut content, mut floats) = (None, Vec::new());
        for field in Fields::of(self.message) {
            match field? {
                (number::tensor::CONTENT, Value::Bytes(bytes)) => content = Some(bytes),
                (number::tensor::FLOATS, Value::Bytes(packed)) => {
                    let (values, rest) = packed.as_chunks();
                    if !rest.is_empty() {
                        return Err("a value is cut off".into());
                    }
                    floats.extend(values.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                }
                (number::tensor::FLOATS, Value::Fixed32(bits)) => floats.push(f32::from_bits(bits)),
                _ => {}
            }
            if floats.len() > count {
                return Err(wrong(floats.len()));
            }
        }
        if let Some(content) = content.filter(|content| !content.is_empty()) {
            let (values, rest) = content.as_chunks();
            if values.len() != count || !rest.is_empty() {
                return Err(wrong(content.len() / 4));
            }
            return Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        }
        // TensorFlow leaves out the end of a tensor whose last values are equal, and all of a tensor of zeros.
        let last = floats.last().copied().unwrap_or_default();
        floats.resize(count, last);
        Ok(floats)
    }
}

fn dimensions(message: &[u8]) -> Result<Vec<usize>, String> {
    let mut found = Vec::new();
    for field in Fields::of(message) {
        match field? {
            (number::shape::DIMENSION, Value::Bytes(dimension)) => {
                let mut size = 0;
                for field in Fields::of(dimension) {
                    if let (number::dimension::SIZE, Value::Varint(number)) = field? {
                        size = number;
                    }
                }
                if found.len() == MAX_DIMENSIONS {
                    return Err(format!("it has more than {MAX_DIMENSIONS} dimensions"));
                }
                let size = i64::try_from(size).ok().and_then(|size| usize::try_from(size).ok());
                found.push(size.ok_or("a dimension has an unknown size")?);
            }
            (number::shape::UNKNOWN_RANK, Value::Varint(1..)) => return Err("its shape is unknown".into()),
            _ => {}
        }
    }
    Ok(found)
}

fn text(bytes: Option<&[u8]>) -> Result<&str, String> {
    std::str::from_utf8(bytes.unwrap_or_default()).map_err(|_| "the name of a node is no text".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// A node of the operation `Const` with the message of its tensor.
    fn constant(name: &str, tensor: &[u8]) -> Vec<u8> {
        let entry = [field(1, b"value"), field(2, &field(8, tensor))].concat();
        field(1, &[field(1, name.as_bytes()), field(2, b"Const"), field(5, &entry)].concat())
    }

    fn error_of(tensor: &[u8]) -> String {
        let bytes = constant("a", tensor);
        let graph = Graph::open(&bytes).unwrap();
        match graph.constant("a") {
            Ok(constant) => constant.unwrap().values().unwrap_err(),
            Err(error) => error,
        }
    }

    #[test]
    fn a_scalar_is_read() {
        let bytes = constant("a", &[0x08, 1, 0x2d, 0, 0, 0x80, 0x3f]);
        let graph = Graph::open(&bytes).unwrap();
        let found = graph.constant("a").unwrap().unwrap();
        assert_eq!((found.shape(), found.values().unwrap()), (&[][..], vec![1.0]));
        assert_eq!(graph.constants().collect::<Vec<_>>(), ["a"]);
        assert!(graph.constant("b").unwrap().is_none());
    }

    #[test]
    fn contradictions_are_errors() {
        let twice = [constant("a", &[]), constant("a", &[])].concat();
        assert!(Graph::open(&twice).unwrap_err().contains("two nodes"));
        assert!(Graph::open(&field(1, &field(1, &[0xff]))).unwrap_err().contains("no text"));
        assert!(error_of(&[0x08, 3]).contains("number 3"));
        let large =
            [&[0x08, 1][..], &field(2, &field(2, &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).repeat(3))]
                .concat();
        assert!(error_of(&large).contains("cannot be counted"));
        let unknown = [&[0x08, 1][..], &field(2, &[0x18, 1])].concat();
        assert!(error_of(&unknown).contains("shape is unknown"));
        let negative = field(2, &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert!(error_of(&[&[0x08, 1][..], &field(2, &negative)].concat()).contains("unknown size"));
        let deep = [&[0x08, 1][..], &field(2, &field(2, &[0x08, 1]).repeat(9))].concat();
        assert!(error_of(&deep).contains("more than 8 dimensions"));
        assert!(error_of(&[0x08, 1, 0x2a, 3, 0, 0, 0]).contains("cut off"));
    }
}
