//! What the members of a sample say about its image: its label, and the name from which it was packed.

use crate::index::Label;
use crate::names::shown;

/// The field of a member `.json` that is the name of the image in the container from which it was packed: a text, or the
/// numbers of its bytes if it is not UTF-8.
pub const PACKED_FROM: &str = "packed_from";

/// The field of the member `.json` of the first packed image of a file that lists the names of all classes in the order of
/// their numbers.
pub const CLASS_NAMES: &str = "class_names";

/// The field of the member `.json` of the first packed image of a file that is the number of classes, if they have no names.
pub const NUM_CLASSES: &str = "num_classes";

/// The longest member that is read for a label, in bytes.
pub const MAX_LABEL_BYTES: u64 = 16 << 20;

/// The classes that the packed images of a file list.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// The names in the order of their numbers.
    pub(super) names: Option<Vec<Vec<u8>>>,
    /// The number of classes without names.
    pub(super) num: Option<u32>,
}

/// What a member says about the image of its sample.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) label: Option<Label>,
    pub(super) packed_from: Option<Vec<u8>>,
}

/// Returns the label in a member `.cls`: a number, or a name.
pub(super) fn described_by_cls(content: &[u8]) -> Result<Described, String> {
    let text = content.trim_ascii();
    if text.is_empty() {
        return Err("the label is empty; write the number or the name of a class".into());
    }
    Ok(Described { label: Some(label(text)?), packed_from: None })
}

/// Returns the label of a text: a number if it is one.
///
/// # Errors
/// If it is a whole number that no class has, or a decimal fraction. It would become a name although the others are numbers.
pub(crate) fn label(text: &[u8]) -> Result<Label, String> {
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if let Some(dot) = digits.iter().position(|&byte| byte == b'.')
        && is_number(&digits[..dot])
        && is_number(&digits[dot + 1..])
    {
        return Err(format!("the label {} is no whole number; write that of a class", shown(text)));
    }
    if !is_number(digits) {
        return Ok(Label::Name(text.to_vec()));
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.map(Label::Number).ok_or_else(|| format!("the label {} is no number of a class", shown(text)))
}

/// Returns the label in a member `.json`, and the name of the image from which it was packed, if it has them. Sets
/// `classes` if it lists them.
pub(super) fn described_by_json(content: &[u8], classes: &mut Classes) -> Result<Described, String> {
    let value: serde_json::Value =
        serde_json::from_slice(content).map_err(|error| format!("it is no JSON: {error}"))?;
    if let Some(name) = value.get(PACKED_FROM) {
        if let Some(list) = value.get(CLASS_NAMES) {
            let names = listed(list)?;
            if *classes.names.get_or_insert_with(|| names.clone()) != names {
                return Err(format!("its {CLASS_NAMES} differ from those before it in the file"));
            }
        }
        if let Some(num) = value.get(NUM_CLASSES) {
            let found = num.as_u64().and_then(|num| u32::try_from(num).ok());
            let found = found.ok_or_else(|| format!("its {NUM_CLASSES} {num} is no number of classes"))?;
            classes.num = classes.num.max(Some(found));
        }
        let label = match (value.get("class"), value.get("label")) {
            (Some(serde_json::Value::String(name)), _) if classes.names.is_none() => {
                Some(Label::Name(name.clone().into_bytes()))
            }
            (_, Some(label)) => label_of_json(label)?,
            _ => None,
        };
        return Ok(Described { label, packed_from: Some(packed_name(name)?) });
    }
    let label = ["label", "cls", "class"].iter().find_map(|key| value.get(key));
    Ok(Described { label: label.map(label_of_json).transpose()?.flatten(), packed_from: None })
}

fn label_of_json(found: &serde_json::Value) -> Result<Option<Label>, String> {
    match found {
        serde_json::Value::String(text) if !text.is_empty() => label(text.as_bytes()).map(Some),
        serde_json::Value::Number(number) => match number.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(Label::Number(number))),
            None => Err(format!("the label {number} is no number of a class")),
        },
        serde_json::Value::Null => Ok(None),
        other => Err(format!("the label {other} is neither a number nor a name")),
    }
}

/// Returns the names in the value of [`CLASS_NAMES`].
fn listed(value: &serde_json::Value) -> Result<Vec<Vec<u8>>, String> {
    let name = |value: &serde_json::Value| value.as_str().map(|name| name.as_bytes().to_vec());
    let names = value.as_array().and_then(|values| values.iter().map(name).collect());
    names.ok_or_else(|| format!("its {CLASS_NAMES} is no list of names"))
}

/// Returns the name in the value of [`PACKED_FROM`].
fn packed_name(value: &serde_json::Value) -> Result<Vec<u8>, String> {
    let byte = |value: &serde_json::Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let name = match value {
        serde_json::Value::String(name) => Some(name.clone().into_bytes()),
        serde_json::Value::Array(bytes) => bytes.iter().map(byte).collect(),
        _ => None,
    };
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| format!("its {PACKED_FROM} {value} is neither a name nor the bytes of one"))
}
