//! The messages of an event file that Admiral writes, with TensorFlow's field numbers
//! (`tensorflow/core/util/event.proto`, `framework/summary.proto`, `framework/tensor.proto`).
//!
//! Scalars and images need no metadata, because TensorBoard chooses their dashboards by the type of the value. A text
//! is stored as a tensor, so its metadata must name the dashboard.

/// One record of an event file.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "EventContent", tags = "3, 5, 7")]
    pub content: Option<EventContent>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum EventContent {
    /// The version of the format, `brain.Event:2`. It is the first record of a file.
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionLog {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    pub status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum SessionStatus {
    Unspecified = 0,
    /// Readers discard entries of earlier files from the step of this event on.
    Start = 1,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
    #[prost(oneof = "ValueContent", tags = "2, 4, 8")]
    pub content: Option<ValueContent>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ValueContent {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
    #[prost(message, tag = "8")]
    Tensor(StringTensor),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Image {
    #[prost(int32, tag = "1")]
    pub height: i32,
    #[prost(int32, tag = "2")]
    pub width: i32,
    /// The number of channels.
    #[prost(int32, tag = "3")]
    pub colorspace: i32,
    /// A PNG file.
    #[prost(bytes = "vec", tag = "4")]
    pub encoded_image_string: Vec<u8>,
}

/// A TensorProto with one string and no dimensions, or with no values.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StringTensor {
    /// [`DT_STRING`], or [`DT_FLOAT`] for no values.
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub string_val: Vec<Vec<u8>>,
}

/// A TensorShapeProto.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
}

/// A dimension of a shape.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Dim {
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// TensorFlow's number of the data type float32.
pub(super) const DT_FLOAT: i32 = 1;

/// TensorFlow's number of the data type string.
pub(super) const DT_STRING: i32 = 7;

/// SummaryMetadata, which names the dashboard that shows a tag.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metadata {
    #[prost(message, optional, tag = "1")]
    pub plugin_data: Option<PluginData>,
    /// [`DATA_CLASS_TENSOR`].
    #[prost(int32, tag = "4")]
    pub data_class: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PluginData {
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// What the dashboard needs besides the value.
    #[prost(bytes = "vec", tag = "2")]
    pub content: Vec<u8>,
}

/// TensorBoard's number of the data class of tensors, which texts use.
pub(super) const DATA_CLASS_TENSOR: i32 = 2;
