//! The machinery on a configuration of its own.

#![allow(clippy::unwrap_used)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Whole {
    /// What to cook.
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

/// The place where it happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Kitchen {
    /// Its name.
    name: String,
    /// Degrees.
    heat: f64,
    /// Cooks at work.
    num_cooks: u64,
    /// Minutes of each course.
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
    /// How many; null for whoever comes.
    limit: Option<u64>,
}

impl Validate for Whole {
    fn validate(&self) -> Vec<Invalid> {
        let mut invalid = Vec::new();
        if self.kitchen.num_cooks > 5 {
            invalid.push(Invalid::new("kitchen.num_cooks", format!("{} spoil it", self.kitchen.num_cooks)));
        }
        if self.kitchen.num_cooks == 5 {
            invalid.push(Invalid::new("kitchen.heat", "too little for 5 cooks"));
        }
        invalid
    }
}

fn read(text: &str, overrides: &[&str]) -> Result<Whole, String> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    parse("a.yaml", text, &overrides).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_default() {
    for text in ["", "# nothing\n", "{}"] {
        assert_eq!(read(text, &[]).unwrap(), Whole::default());
    }
}

#[test]
fn every_mistake_is_shown_at_its_place() {
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
fn no_is_a_word_and_no_truth() {
    assert_eq!(read("kitchen: {name: no}", &[]).unwrap().kitchen.name, "no");
    assert_eq!(
        read("kitchen: {window: no}", &[]).unwrap_err(),
        "a.yaml:1:11: kitchen.window: must be true or false; found the text `no`"
    );
    assert_eq!(
        read("kitchen: {name: 12}", &[]).unwrap_err(),
        "a.yaml:1:11: kitchen.name: must be text; found 12; write \"12\" in quotes"
    );
    assert_eq!(read("kitchen: {name: \"12\"}", &[]).unwrap().kitchen.name, "12");
}

#[test]
fn numbers_keep_to_their_kind() {
    assert_eq!(
        read("kitchen:\n  num_cooks: -1\n", &[]).unwrap_err(),
        "a.yaml:2:3: kitchen.num_cooks: must be a whole number of 0 or more; found -1"
    );
    assert_eq!(read("kitchen: {heat: 1e-4}", &[]).unwrap().kitchen.heat, 1e-4);
    assert_eq!(read("kitchen: {heat: 3}", &[]).unwrap().kitchen.heat, 3.0);
    assert!(read("kitchen: {heat: .nan}", &[]).unwrap_err().contains("must be a number"));
}

#[test]
fn what_cannot_work_is_shown_where_it_was_set() {
    assert_eq!(read("kitchen:\n  num_cooks: 6\n", &[]).unwrap_err(), "a.yaml:2:3: kitchen.num_cooks: 6 spoil it");
    assert_eq!(
        read("", &["kitchen.num_cooks=7"]).unwrap_err(),
        "--set kitchen.num_cooks=7: kitchen.num_cooks: 7 spoil it"
    );
    assert_eq!(
        read("kitchen: {num_cooks: 5}", &[]).unwrap_err(),
        "a.yaml (default): kitchen.heat: too little for 5 cooks"
    );
}

#[test]
fn overrides_win_and_make_what_is_missing() {
    let whole = read(
        "kitchen:\n  num_cooks: 1\n",
        &["kitchen.num_cooks=3", "kitchen.num_cooks=4", "kitchen.courses=[5]", "guests.limit=8", "dish=fruit_salad"],
    )
    .unwrap();
    assert_eq!((whole.kitchen.num_cooks, whole.kitchen.courses, whole.guests.limit), (4, vec![5], Some(8)));
    assert_eq!(whole.dish, Dish::FruitSalad);
    assert_eq!(read("guests: {limit: 3}", &["guests.limit=null"]).unwrap().guests.limit, None);
    assert_eq!(read("kitchen:\n", &["kitchen.heat=2"]).unwrap().kitchen.heat, 2.0);
}

#[test]
fn overrides_that_name_nothing_are_refused() {
    let refused = |text: &str| read("", &[text]).unwrap_err();
    assert_eq!(refused("kitchen.het=1"), "--set kitchen.het=1: kitchen.het: unknown field `het`; did you mean `heat`?");
    assert_eq!(
        refused("num_cooks=1"),
        "--set num_cooks=1: num_cooks: unknown field `num_cooks`; did you mean `kitchen.num_cooks`?"
    );
    assert_eq!(
        refused("kitchen.heat.low=1"),
        "--set kitchen.heat.low=1: kitchen.heat.low: `kitchen.heat` has no fields below it: set the whole value"
    );
    assert_eq!(refused("kitchen.heat"), "--set kitchen.heat: must look like section.field=value");
    assert!(refused("kitchen.heat=[1").starts_with("--set kitchen.heat=[1: kitchen.heat: not a YAML value"));
}

#[test]
fn what_is_no_yaml_names_its_line() {
    let error = read("dish: soup\nkitchen: [1\n", &[]).unwrap_err();
    assert!(error.starts_with("a.yaml:") && error.contains("not YAML"), "{error}");
    let twice = read("kitchen:\n  heat: 1\n  heat: 2\n", &[]).unwrap_err();
    assert!(twice.starts_with("a.yaml:3:"), "{twice}");
    assert!(read("- a\n", &[]).unwrap_err().contains("`name: value`"));
    assert!(read("kitchen:\n", &[]).unwrap_err().contains("found nothing"));
}

#[test]
fn a_missing_file_is_named() {
    let error = load::<Whole>(std::path::Path::new("no/such.yaml"), &[]).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration no/such.yaml: "), "{error}");
}

#[test]
fn what_is_shown_reads_back() {
    let mut whole = Whole::default();
    for name in ["no", "12", "", "a: b # c", "ä\n\"x\"", "s3://bucket/x", "1e3", "~", "/data/x.y"] {
        whole.kitchen.name = name.into();
        let text = show(&whole, &[("cooks".into(), "two\nlines".into())]);
        assert_eq!(read(&text, &[]).unwrap(), whole, "{text}");
    }
    assert_eq!(
        show(&Whole::default(), &[("sum".into(), "30".into())]),
        "# What to cook.\ndish: soup\n\n# The place where it happens.\nkitchen:\n  # Its name.\n  name: main\n  \
         # Degrees.\n  heat: 1e-8\n  # Cooks at work.\n  num_cooks: 2\n  # Minutes of each course.\n  \
         courses: [10, 20]\n  # Whether the window is open.\n  window: false\n\nguests:\n  \
         # How many; null for whoever comes.\n  limit: null\n\n# Derived from the above:\n#   sum: 30\n"
    );
}
