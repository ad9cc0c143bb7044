//! Environment variables of one object store, and the checks that all object stores have in common.

use std::path::Path;

use admiral_contract::secret::is_secret;
use url::Url;

use crate::error::{Error, chain};

/// What is wrong with a variable that names no file.
const NO_FILE: &str = "is not the path of a file of this host; give one with credentials";

/// The name of a setting of a client.
pub(super) trait Key: Copy + Eq + AsRef<str> {
    /// How the names of the variables begin.
    const PREFIX: &'static str;
    /// The variable that allows connections without TLS.
    const ALLOW_HTTP_NAME: &'static str;
    /// The setting that allows connections without TLS.
    const ALLOW_HTTP: Self;
    /// What to set instead of a name and password in a URL.
    const CREDENTIALS: &'static str;

    /// Returns the setting of a variable, whose name is in lower case.
    fn of(name: &str) -> Option<Self>;

    /// Returns whether the setting is true or false.
    fn is_switch(self) -> bool;

    /// Returns whether the setting is the URL of a server.
    fn is_endpoint(self) -> bool;

    /// Returns whether the setting is the URL of another service, such as one that gives credentials.
    fn is_service(self) -> bool;

    /// Returns whether the setting is a document, which may have line breaks.
    fn is_document(self) -> bool;
}

/// An environment variable.
#[derive(Clone, PartialEq, Eq)]
struct Variable<K> {
    key: K,
    /// Its name, for messages.
    name: String,
    value: String,
}

/// The variables that name the certificates which all clients trust, in addition to those of the system.
pub(super) const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// The variables of one object store.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Variables<K>(Vec<Variable<K>>);

impl<K> Default for Variables<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Key> std::fmt::Debug for Variables<K> {
    /// Prints the names of the settings without their values, some of which are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|variable| variable.key.as_ref())).finish()
    }
}

impl<K: Key> Variables<K> {
    /// Takes the variables of this store. Unknown ones are ignored.
    pub(super) fn from_vars(vars: &[(String, String)]) -> Self {
        let known = vars.iter().filter(|(name, _)| name.starts_with(K::PREFIX)).filter_map(|(name, value)| {
            let key = K::of(&name.to_ascii_lowercase())?;
            // An empty optional variable means none. Without its endpoint, a request would go to another server.
            let is_kept = !value.is_empty() || key.is_endpoint();
            is_kept.then(|| Variable { key, name: name.clone(), value: value.clone() })
        });
        Self(known.collect())
    }

    /// Applies all settings to the builder of a client.
    pub(super) fn apply<B>(&self, builder: B, with: impl Fn(B, K, &str) -> B) -> B {
        self.0.iter().fold(builder, |builder, variable| with(builder, variable.key, &variable.value))
    }

    /// Checks all values before a client is made from them. The client panics on some wrong values, and tries requests
    /// again and again that can never be sent.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    pub(super) fn check(&self) -> Result<(), Error> {
        for Variable { key, name, value } in &self.0 {
            let refuse = |reason: String| Err(Error::Variable { variable: name.clone(), reason });
            if value.is_empty() {
                return refuse("is empty; unset it, or give it a value".into());
            }
            if key.is_document() || name.to_ascii_lowercase().ends_with("_proxy_ca_certificate") {
                continue;
            }
            if let Some(bad) = value.chars().find(|letter| letter.is_control()) {
                let kind = if matches!(bad, '\n' | '\r') { "a line break" } else { "a control character" };
                return refuse(format!("has {kind} in it or at its end; set it again without"));
            }
            if !value.is_ascii() || value.trim() != value {
                return refuse("has a space at an end, or a character that is not ASCII; set it again without".into());
            }
            if key.is_switch() && switch(value).is_none() {
                return refuse("is neither true nor false".into());
            }
            let is_time = ["timeout", "interval"].iter().any(|end| key.as_ref().ends_with(end));
            if is_time && humantime::parse_duration(value).is_err() {
                return refuse("is no time, such as 30s or 2 min".into());
            }
        }
        for Variable { name, value, .. } in self.0.iter().filter(|variable| variable.key.is_endpoint()) {
            let refuse = |reason: String| Err(Error::Variable { variable: name.clone(), reason });
            self.check_endpoint(value).or_else(refuse)?;
        }
        for Variable { name, value, .. } in self.0.iter().filter(|variable| variable.key.is_service()) {
            let is_url = Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !is_url {
                let reason = "is not a URL; the form is http://HOST:PORT or https://HOST:PORT".to_owned();
                return Err(Error::Variable { variable: name.clone(), reason });
            }
        }
        Ok(())
    }

    /// Checks that the file that a setting names is there.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable.
    pub(super) fn check_file(&self, key: K) -> Result<(), Error> {
        match self.0.iter().find(|variable| variable.key == key) {
            Some(Variable { name, value, .. }) if !Path::new(value).is_file() => Err(refused(name, NO_FILE)),
            _ => Ok(()),
        }
    }

    /// Opens a client with `open`, which sends no request.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable without which the client could be opened, if there is one. Otherwise
    /// [`Error::Unusable`] for the store at `url`. `certificates` is one of [`CERTIFICATES`], if it is set.
    pub(super) fn open<T>(
        &self,
        url: &str,
        certificates: Option<&str>,
        open: impl Fn(&Self) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        let error = match open(self) {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let cause = self.without_secrets(chain(&error));
        let without = |left_out: usize| {
            let others = self.0.iter().enumerate().filter(|(place, _)| *place != left_out);
            Self(others.map(|(_, variable)| variable.clone()).collect())
        };
        let culprit = (0..self.0.len()).find(|&place| open(&without(place)).is_ok());
        match culprit.map(|place| self.0[place].name.as_str()).or(certificates) {
            // The cause may have a part of the secret in it.
            Some(name) if is_secret(name) => Err(refused(name, "has a value that cannot be used; set it again")),
            Some(name) => Err(refused(name, &format!("cannot be used: {cause}"))),
            None => {
                let reason = format!("{cause}; check the environment variables that start with {}", K::PREFIX);
                Err(Error::Unusable { operation: "open".into(), url: url.to_owned(), reason })
            }
        }
    }

    /// Returns a text without the values of the secret variables.
    fn without_secrets(&self, text: String) -> String {
        let secrets = self.0.iter().filter(|variable| is_secret(&variable.name) && !variable.value.is_empty());
        secrets.fold(text, |text, variable| without(&text, &variable.value))
    }

    /// Checks the URL of a server.
    fn check_endpoint(&self, value: &str) -> Result<(), String> {
        let form = "the form is http://HOST:PORT or https://HOST:PORT";
        // `host:9000` is a URL as well, whose scheme is `host`.
        let Some((scheme, _)) = value.split_once("://") else { return Err(format!("has no scheme; {form}")) };
        let url = Url::parse(value).map_err(|error| format!("is not a URL ({error}); {form}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("has a name or password in it; set {} instead", K::CREDENTIALS));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("has a query or a fragment, after ? or #; {form}"));
        }
        match scheme {
            "https" => Ok(()),
            "http" if self.is_on(K::ALLOW_HTTP) => Ok(()),
            "http" => Err(format!("is not encrypted; set {}=true to allow that, or use https", K::ALLOW_HTTP_NAME)),
            _ => Err(format!("has the scheme {scheme}; {form}")),
        }
    }

    /// Returns whether a variable names a proxy for this store.
    pub(super) fn has_proxy(&self) -> bool {
        self.0.iter().any(|variable| variable.key.as_ref().ends_with("proxy_url"))
    }

    /// Returns whether the setting is set.
    pub(super) fn has(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    /// Returns the value of the setting.
    pub(super) fn get(&self, key: K) -> Option<&str> {
        self.0.iter().find(|variable| variable.key == key).map(|variable| variable.value.as_str())
    }

    /// Returns whether the setting is set to true.
    pub(super) fn is_on(&self, key: K) -> bool {
        self.0.iter().any(|variable| variable.key == key && switch(&variable.value) == Some(true))
    }

    /// Returns the URL of the server, if a variable sets it. The client takes the last one.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.0.iter().rfind(|variable| variable.key.is_endpoint()).map(|variable| variable.value.as_str())
    }
}

/// Returns a text without a secret. One of less than [`MIN_PART`] characters is also a part of usual words, in which it tells
/// nothing.
fn without(text: &str, secret: &str) -> String {
    let is_short = secret.chars().count() < MIN_PART;
    let mut shown = String::with_capacity(text.len());
    let mut rest = 0;
    for (start, _) in text.match_indices(secret) {
        let end = start + secret.len();
        let joins = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
        if is_short && (joins(text[..start].chars().next_back()) || joins(text[end..].chars().next())) {
            continue;
        }
        shown += &text[rest..start];
        shown += "(secret, not shown)";
        rest = end;
    }
    shown + &text[rest..]
}

/// The least characters of a secret that is not shown within a word either.
const MIN_PART: usize = 4;

/// Makes the error of a variable.
pub(super) fn refused(variable: &str, reason: &str) -> Error {
    Error::Variable { variable: variable.to_owned(), reason: reason.to_owned() }
}

/// Returns the meaning of a switch, in the spellings that the client knows. `None` for other text.
fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Some(true),
        "0" | "false" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}

/// Returns whether the firmware of this machine names `maker`, which is in lower case. Machines of a cloud do, and only
/// they have a metadata service that gives credentials.
pub(super) fn is_machine_of(maker: &str) -> bool {
    // Older machines of Amazon run on Xen, and only their BIOS says it.
    ["sys_vendor", "product_version", "bios_version"].iter().any(|name| {
        std::fs::read_to_string(format!("/sys/class/dmi/id/{name}"))
            .is_ok_and(|text| text.to_ascii_lowercase().contains(maker))
    })
}

/// Copies variables for tests.
#[cfg(test)]
pub(super) fn owned(vars: &[(&str, &str)]) -> Vec<(String, String)> {
    vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_secrets_are_left_out_as_words_only() {
        assert_eq!(without("the object t is \"t\"", "t"), "the object (secret, not shown) is \"(secret, not shown)\"");
        assert_eq!(without("xhushx hush", "hush"), "x(secret, not shown)x (secret, not shown)");
    }
}
