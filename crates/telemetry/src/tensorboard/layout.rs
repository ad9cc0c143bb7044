//! The layout of TensorBoard's custom scalars: which curves are in one chart, and which charts belong together.

use prost::Message;

/// TensorBoard's name of the plugin that shows custom scalars.
pub(super) const PLUGIN: &str = "custom_scalars";
/// The tag under which the plugin looks for a layout.
pub(super) const TAG: &str = "custom_scalars__config__";

/// Charts that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChartGroup<'a> {
    /// The title of the group.
    pub title: &'a str,
    /// The title of each chart, and regular expressions of the tags of its curves.
    pub charts: &'a [(&'a str, &'a [&'a str])],
}

/// Returns a layout as TensorBoard stores it.
pub(super) fn encode(groups: &[ChartGroup<'_>]) -> Vec<u8> {
    let chart = |(title, tags): &(&str, &[&str])| Chart {
        title: (*title).to_owned(),
        multiline: Some(Multiline { tag: tags.iter().map(|tag| (*tag).to_owned()).collect() }),
    };
    let category = |group: &ChartGroup<'_>| Category {
        title: group.title.to_owned(),
        chart: group.charts.iter().map(chart).collect(),
    };
    Layout { category: groups.iter().map(category).collect() }.encode_to_vec()
}

// The messages, with TensorBoard's field numbers (`plugins/custom_scalar/layout.proto`).

#[derive(Clone, PartialEq, prost::Message)]
struct Layout {
    #[prost(message, repeated, tag = "2")]
    category: Vec<Category>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Category {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(message, repeated, tag = "2")]
    chart: Vec<Chart>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Chart {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(message, optional, tag = "2")]
    multiline: Option<Multiline>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Multiline {
    #[prost(string, repeated, tag = "1")]
    tag: Vec<String>,
}
