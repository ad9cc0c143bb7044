//! The variables that name proxies for all programs.

use url::Url;

use super::variables::refused;
use crate::error::Error;

/// Their names, also in lower case.
const NAMES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// The proxies of the environment, which clients use unless a variable of their store names another.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Proxies(Vec<(String, String)>);

impl std::fmt::Debug for Proxies {
    /// Prints the names without the values, which may have passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Proxies {
    /// Takes the variables of proxies. Empty ones mean none.
    pub(super) fn from_vars(vars: &[(String, String)]) -> Self {
        let is_known = |name: &str| NAMES.iter().any(|known| name == *known || name == known.to_ascii_lowercase());
        Self(vars.iter().filter(|(name, value)| is_known(name) && !value.trim().is_empty()).cloned().collect())
    }

    /// Checks that the client can use them. It would ignore others, and send requests past the proxy.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable.
    pub(super) fn check(&self) -> Result<(), Error> {
        // A proxy of all schemes is for those that have none of their own.
        let is_for_all = |name: &str| name.eq_ignore_ascii_case("ALL_PROXY");
        let has_own = self.0.iter().any(|(name, value)| !is_for_all(name) && is_usable(value));
        let is_fine = |name: &str, value: &str| is_usable(value) || has_own && is_for_all(name);
        match self.0.iter().find(|(name, value)| !is_fine(name, value)) {
            Some((name, _)) => {
                Err(refused(name, "is not the URL of a proxy; the form is http://HOST:PORT or https://HOST:PORT"))
            }
            None => Ok(()),
        }
    }
}

/// Returns whether a value is the URL of a proxy. One without a scheme means `http`.
fn is_usable(value: &str) -> bool {
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain && Url::parse(&with_scheme).is_ok_and(|url| SCHEMES.contains(&url.scheme()) && url.has_host())
}

/// The schemes of proxies that the client knows.
const SCHEMES: [&str; 2] = ["http", "https"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::variables::owned;
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), String> {
        Proxies::from_vars(&owned(&[("NO_PROXY", "["), (name, value)])).check().map_err(|error| error.to_string())
    }

    #[test]
    fn proxies_that_no_client_uses_are_refused_by_name() {
        for name in ["HTTP_PROXY", "https_proxy", "all_proxy"] {
            for value in
                ["http://[", "http://127.0.0.1:185022", "ftp://me:hush@host", "http://", "host name:1", "host\n"]
            {
                let error = check(name, value).expect_err(value);
                assert!(error.contains(name) && !error.contains("hush"), "{error}");
            }
            for value in ["http://me:hush@proxy:8080", "proxy:8080", "https://[::1]:1/", "proxy", "", " "] {
                assert_eq!(check(name, value), Ok(()), "{value}");
            }
        }
        let both = [("https_proxy", "http://proxy:1"), ("all_proxy", "socks5://proxy:2")];
        Proxies::from_vars(&owned(&both)).check().unwrap();
        let printed = format!("{:?}", Proxies::from_vars(&owned(&[("HTTP_PROXY", "http://me:hush@x")])));
        assert!(printed.contains("HTTP_PROXY") && !printed.contains("hush"), "{printed}");
    }
}
