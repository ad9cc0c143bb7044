//! Who is told about the incidents of a run: the field `launch.notify`.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::secret::{SHOWN, masked_argument, masked_webhook};

/// The longest URL of a webhook in bytes.
const MAX_URL: usize = 4096;

/// A receiver of notifications. The path of a webhook is a secret, because whoever knows it can post there. The arguments
/// of a command may contain such a URL, a header or a password in any form. `Debug` and `Serialize` hide both, so that
/// messages, logs and files of a run do not contain them.
#[derive(Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "must be the URL of a webhook, or a list of a program and its arguments")]
pub enum Notify {
    /// The URL to which each notification is posted as JSON.
    Webhook(String),
    /// A program and its arguments. It reads the JSON from its standard input.
    Command(Vec<String>),
}

impl Notify {
    /// Parses the value of an option: a URL becomes a webhook, anything else a command for a shell. A URL with any scheme
    /// becomes a webhook, so that [`Notify::mistake`] refuses schemes that are not supported.
    #[must_use]
    pub fn of_option(text: &str) -> Self {
        match text.split_once("://") {
            Some((scheme, _)) if is_scheme(scheme) => Self::Webhook(text.to_owned()),
            _ => Self::Command(["sh", "-c", text].map(str::to_owned).to_vec()),
        }
    }

    /// Returns the receiver as it may be shown.
    #[must_use]
    pub fn masked(&self) -> Self {
        match self {
            Self::Webhook(url) => Self::Webhook(masked_webhook(url)),
            Self::Command(words) => {
                let program = words.first().map(String::as_str).map(masked_program);
                let arguments = (words.len() > 1).then(|| SHOWN.to_owned());
                Self::Command(program.into_iter().chain(arguments).collect())
            }
        }
    }

    /// Returns whether a part of it is hidden, as in the `config.yaml` of a run. Nobody can be told then.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        match self {
            Self::Webhook(url) => url.contains(SHOWN),
            Self::Command(words) => words.iter().any(|word| word.contains(SHOWN)),
        }
    }

    /// Returns why it is invalid.
    #[must_use]
    pub fn mistake(&self) -> Option<&'static str> {
        match self {
            _ if self.is_masked() => None,
            Self::Webhook(url) => url_mistake(url),
            Self::Command(words) if words.first().is_none_or(|program| program.trim().is_empty()) => {
                Some("the command is empty: give a list of the program and its arguments, or the URL of a webhook")
            }
            Self::Command(words) if words.first().is_some_and(|program| program.contains("://")) => {
                Some("the program of the command is a URL: give the URL of a webhook as a text, not as a list")
            }
            Self::Command(words) if words.iter().any(|word| word.contains('\0')) => {
                Some("no word of a command may contain the character NUL")
            }
            Self::Command(_) => None,
        }
    }
}

/// Returns the program of a command as it may be shown. Somebody may have written a URL in its place.
fn masked_program(program: &str) -> String {
    if program.contains("://") { masked_webhook(program) } else { masked_argument(program) }
}

/// Returns whether a text is the scheme of a URL.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.'))
}

fn url_mistake(url: &str) -> Option<&'static str> {
    let is_http = |scheme: &str| ["https", "http"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
    let Some((_, rest)) = url.split_once("://").filter(|(scheme, _)| is_http(scheme)) else {
        return Some(
            "a webhook is a URL that begins with https:// or http://; a command is a list: [program, argument]",
        );
    };
    if rest.is_empty() || rest.starts_with(['/', '?', '#', ':']) {
        return Some("the URL of the webhook has no host");
    }
    if url.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Some("the URL of the webhook contains a space or a control character");
    }
    (url.len() > MAX_URL).then_some("the URL of the webhook is longer than 4096 bytes")
}

impl fmt::Debug for Notify {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.masked() {
            Self::Webhook(url) => formatter.debug_tuple("Webhook").field(&url).finish(),
            Self::Command(words) => formatter.debug_tuple("Command").field(&words).finish(),
        }
    }
}

impl Serialize for Notify {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.masked() {
            Self::Webhook(url) => url.serialize(serializer),
            Self::Command(words) => words.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(json: &str) -> Notify {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn secrets_are_read_and_not_shown() {
        let webhook = read(r#""https://hooks.example.org/T0/hush?key=hush""#);
        assert_eq!(webhook, Notify::Webhook("https://hooks.example.org/T0/hush?key=hush".into()));
        let command = read(r#"["curl", "-d", "@-", "https://hooks.example.org/T0/hush"]"#);
        let header = read(r#"["curl", "-H", "Authorization: Bearer hush", "https://example.org/"]"#);
        let shell = read(r#"["sh", "-c", "curl -d @- https://hooks.example.org/T0/hush"]"#);
        let misplaced = read(r#"["https://hooks.example.org/T0/hush"]"#);
        for notify in [&webhook, &command, &header, &shell, &misplaced] {
            let shown = [format!("{notify:?}"), serde_json::to_string(notify).unwrap()];
            assert!(shown.iter().all(|text| !text.contains("hush")), "{shown:?}");
            assert!(!notify.is_masked() && notify.masked().is_masked());
            assert_eq!(notify.masked().mistake(), None, "a file of a run can be read again");
            assert_eq!(notify.masked().masked(), notify.masked());
        }
        assert!(format!("{webhook:?}").contains("hooks.example.org"));
        assert_eq!(serde_json::to_value(&shell).unwrap(), serde_json::json!(["sh", SHOWN]));
        let alone = read(r#"["/usr/local/bin/page"]"#);
        assert_eq!(alone.masked(), alone, "a program without arguments has no secret");
    }

    #[test]
    fn other_values_are_refused_with_what_is_expected() {
        let error = serde_json::from_str::<Notify>(r#"{"url": "https://h/hush"}"#).unwrap_err().to_string();
        assert!(error.contains("a list of a program and its arguments") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn an_option_is_a_url_or_a_command_for_a_shell() {
        for url in ["https://h/x", "HTTP://h/x", "ftp://h/x", "ntfy+https://h/x"] {
            assert_eq!(Notify::of_option(url), Notify::Webhook(url.into()));
        }
        for url in ["ftp://h/x", "ntfy+https://h/x", "httpx://h"] {
            assert!(Notify::of_option(url).mistake().is_some_and(|mistake| mistake.contains("begins with https://")));
        }
        for command in ["cat >> /tmp/x", "URL=ftp://h/x page", "/bin/page ftp://h/x", "curl ftp://h/x", "page"] {
            let words = ["sh", "-c", command].map(str::to_owned).to_vec();
            assert_eq!(Notify::of_option(command), Notify::Command(words));
        }
    }

    #[test]
    fn invalid_receivers_are_refused() {
        for (json, part) in [
            (r#""hooks.example.org/x""#, "begins with https://"),
            (r#""ftp://example.org/x""#, "begins with https://"),
            (r#""https://""#, "no host"),
            (r#""https:///x""#, "no host"),
            (r#""https://a b/x""#, "a space"),
            (r#"["https://example.org/x"]"#, "not as a list"),
            ("[]", "empty"),
            (r#"["", "x"]"#, "empty"),
            (r#"["a", "b\u0000"]"#, "NUL"),
        ] {
            assert!(read(json).mistake().is_some_and(|mistake| mistake.contains(part)), "{json}");
        }
        assert!(read(&format!("\"https://a/{}\"", "x".repeat(5000))).mistake().is_some());
        for json in [r#""http://localhost:8080/hook""#, r#""HTTPS://example.org/x""#, r#"["/usr/bin/mail", "me"]"#] {
            assert_eq!(read(json).mistake(), None, "{json}");
        }
    }
}
