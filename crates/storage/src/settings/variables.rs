//! Environment variables of one object store, and the checks that all object stores have in common.

use url::Url;

use crate::error::Error;

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
        }
        for Variable { name, value, .. } in self.0.iter().filter(|variable| variable.key.is_endpoint()) {
            let refuse = |reason: String| Err(Error::Variable { variable: name.clone(), reason });
            self.check_endpoint(value).or_else(refuse)?;
        }
        Ok(())
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
        match scheme {
            "https" => Ok(()),
            "http" if self.is_on(K::ALLOW_HTTP) => Ok(()),
            "http" => Err(format!("is not encrypted; set {}=true to allow that, or use https", K::ALLOW_HTTP_NAME)),
            _ => Err(format!("has the scheme {scheme}; {form}")),
        }
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
