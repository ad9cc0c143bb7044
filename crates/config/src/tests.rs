//! Tests with an example configuration.

#![allow(clippy::unwrap_used)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Example {
    /// The dish to cook.
    dish: Dish,
    kitchen: Kitchen,
    guests: Guests,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Dish {
    /// Hot.
    #[default]
    Soup,
    /// Cold.
    FruitSalad,
}

/// The kitchen that cooks the dish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Kitchen {
    /// The name of the kitchen.
    name: String,
    /// The heat in degrees.
    heat: f64,
    /// The number of cooks.
    num_cooks: u64,
    /// The minutes of each course.
    courses: Vec<i64>,
    /// Whether the window is open.
    window: bool,
}

impl Default for Kitchen {
    fn default() -> Self {
        Self { name: "main".into(), heat: 1e-8, num_cooks: 2, courses: vec![10, 20], window: false }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Guests {
    /// The most guests; null means no limit.
    limit: Option<u64>,
}

impl Validate for Example {
    fn validate(&self) -> Vec<Invalid> {
        let mut invalid = Vec::new();
        if self.kitchen.num_cooks > 5 {
            invalid.push(Invalid::new("kitchen.num_cooks", format!("{} are too many", self.kitchen.num_cooks)));
        }
        if self.kitchen.num_cooks == 5 {
            invalid.push(Invalid::new("kitchen.heat", "too little for 5 cooks"));
        }
        invalid
    }
}

fn read(text: &str, overrides: &[&str]) -> Result<Example, String> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    parse("a.yaml", text, &overrides).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_gives_the_defaults() {
    for text in ["", "# nothing\n", "{}"] {
        assert_eq!(read(text, &[]).unwrap(), Example::default());
    }
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let text = "dish: fruit_salat\nkitchen:\n  num_cook: 3\n  heat: warm\n  courses: [1, two]\nlimit: 3\nzzz: 1\n";
    assert_eq!(
        read(text, &[]).unwrap_err(),
        "a.yaml:3:3: kitchen.num_cook: unknown field; did you mean `num_cooks`?\n\
         a.yaml:6:1: limit: unknown field; did you mean `guests.limit`?\n\
         a.yaml:7:1: zzz: unknown field; known here: dish, kitchen, guests\n\
         a.yaml:1:1: dish: must be one of soup, fruit_salad; found the text `fruit_salat`; did you mean `fruit_salad`?\n\
         a.yaml:4:3: kitchen.heat: must be a number; found the text `warm`\n\
         a.yaml:5:16: kitchen.courses.1: must be a whole number; found the text `two`"
    );
}

#[test]
fn no_is_text_and_not_a_boolean() {
    assert_eq!(read("kitchen: {name: no}", &[]).unwrap().kitchen.name, "no");
    assert_eq!(
        read("kitchen: {window: no}", &[]).unwrap_err(),
        "a.yaml:1:11: kitchen.window: must be true or false; found the text `no`"
    );
    assert_eq!(
        read("kitchen: {name: 12}", &[]).unwrap_err(),
        "a.yaml:1:11: kitchen.name: must be text; found 12; write it in quotes"
    );
    assert_eq!(read("kitchen: {name: \"12\"}", &[]).unwrap().kitchen.name, "12");
}

#[test]
fn numbers_must_match_the_type_of_their_field() {
    assert_eq!(
        read("kitchen:\n  num_cooks: -1\n", &[]).unwrap_err(),
        "a.yaml:2:3: kitchen.num_cooks: must be a whole number of 0 or more; found -1"
    );
    assert_eq!(read("kitchen: {heat: 1e-4}", &[]).unwrap().kitchen.heat, 1e-4);
    assert_eq!(read("kitchen: {heat: 3}", &[]).unwrap().kitchen.heat, 3.0);
    assert!(read("kitchen: {heat: .nan}", &[]).unwrap_err().contains("must be a number"));
}

#[test]
fn invalid_values_are_reported_with_their_origin() {
    assert_eq!(read("kitchen:\n  num_cooks: 6\n", &[]).unwrap_err(), "a.yaml:2:3: kitchen.num_cooks: 6 are too many");
    assert_eq!(
        read("", &["kitchen.num_cooks=7"]).unwrap_err(),
        "--set kitchen.num_cooks=7: kitchen.num_cooks: 7 are too many"
    );
    assert_eq!(
        read("kitchen: {num_cooks: 5}", &[]).unwrap_err(),
        "a.yaml (default): kitchen.heat: too little for 5 cooks"
    );
}

#[test]
fn overrides_replace_values_and_create_missing_ones() {
    let example = read(
        "kitchen:\n  num_cooks: 1\n",
        &["kitchen.num_cooks=3", "kitchen.num_cooks=4", "kitchen.courses=[5]", "guests.limit=8", "dish=fruit_salad"],
    )
    .unwrap();
    assert_eq!((example.kitchen.num_cooks, example.kitchen.courses, example.guests.limit), (4, vec![5], Some(8)));
    assert_eq!(example.dish, Dish::FruitSalad);
    assert_eq!(read("guests: {limit: 3}", &["guests.limit=null"]).unwrap().guests.limit, None);
    assert_eq!(read("kitchen:\n", &["kitchen.heat=2"]).unwrap().kitchen.heat, 2.0);
}

#[test]
fn overrides_of_unknown_fields_are_errors() {
    let error_of = |text: &str| read("", &[text]).unwrap_err();
    assert_eq!(
        error_of("kitchen.het=1"),
        "--set kitchen.het=1: kitchen.het: unknown field `het`; did you mean `heat`?"
    );
    assert_eq!(
        error_of("num_cooks=1"),
        "--set num_cooks=1: num_cooks: unknown field `num_cooks`; did you mean `kitchen.num_cooks`?"
    );
    assert_eq!(
        error_of("kitchen.heat.low=1"),
        "--set kitchen.heat.low=1: kitchen.heat.low: `kitchen.heat` has no fields below it: set the whole value"
    );
    assert_eq!(error_of("kitchen.heat"), "--set kitchen.heat: must look like section.field=value");
    assert!(error_of("kitchen.heat=[1").starts_with("--set kitchen.heat=[1: kitchen.heat: not a YAML value"));
}

#[test]
fn invalid_yaml_is_reported_with_its_line() {
    let error = read("dish: soup\nkitchen: [1\n", &[]).unwrap_err();
    assert!(error.starts_with("a.yaml:") && error.contains("not YAML"), "{error}");
    let twice = read("kitchen:\n  heat: 1\n  heat: 2\n", &[]).unwrap_err();
    assert!(twice.starts_with("a.yaml:3:"), "{twice}");
    assert!(read("- a\n", &[]).unwrap_err().contains("`name: value`"));
    assert!(read("kitchen:\n", &[]).unwrap_err().contains("found nothing"));
}

#[test]
fn a_missing_file_is_reported_by_name() {
    let error = load::<Example>(std::path::Path::new("no/such.yaml"), &[]).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration no/such.yaml: "), "{error}");
}

#[test]
fn a_printed_configuration_reads_back() {
    let mut example = Example::default();
    for name in
        ["no", "12", "", "a: b # c", "ä\n\"x\"", "s3://bucket/x", "1e3", "~", "/data/x.y", "a\n\u{85}\u{2028}\"b"]
    {
        example.kitchen.name = name.into();
        let text = show(&example, &[("cooks".into(), "two\nlines".into())]);
        assert_eq!(read(&text, &[]).unwrap(), example, "{text}");
    }
    assert_eq!(
        show(&Example::default(), &[("sum".into(), "30".into())]),
        "# The dish to cook.\ndish: soup\n\n# The kitchen that cooks the dish.\nkitchen:\n  \
         # The name of the kitchen.\n  name: main\n  # The heat in degrees.\n  heat: 1e-8\n  \
         # The number of cooks.\n  num_cooks: 2\n  # The minutes of each course.\n  courses: [10, 20]\n  \
         # Whether the window is open.\n  window: false\n\nguests:\n  \
         # The most guests; null means no limit.\n  limit: null\n\n# Derived from the above:\n#   sum: 30\n"
    );
}

#[test]
fn a_field_is_read_whatever_else_is_there() {
    let text = "kitchen: {stove: gas, ovens: [1, 2]}\nnew: {section: 1}\n";
    assert_eq!(read_field(text, "kitchen.stove"), Some("gas".into()));
    assert_eq!(read_field(text, "kitchen.ovens.1"), Some(2.into()));
    assert_eq!(
        [read_field(text, "kitchen.table"), read_field("a: b: c", "a"), read_field("", "a")],
        [None, None, None]
    );
}
