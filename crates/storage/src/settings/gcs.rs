//! The variables of Google Cloud Storage.

use std::path::PathBuf;
use std::str::FromStr;

use object_store::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

use super::variables::{Key, Variables, is_machine_of, refused};
use crate::error::Error;

/// Where `gcloud auth application-default login` writes credentials, relative to the user's folder.
const USER_CREDENTIALS: &str = ".config/gcloud/application_default_credentials.json";

impl Key for GoogleConfigKey {
    const PREFIX: &'static str = "GOOGLE_";
    const ALLOW_HTTP_NAME: &'static str = "GOOGLE_ALLOW_HTTP";
    const ALLOW_HTTP: Self = Self::Client(ClientConfigKey::AllowHttp);
    const CREDENTIALS: &'static str = "GOOGLE_APPLICATION_CREDENTIALS";

    fn of(name: &str) -> Option<Self> {
        Self::from_str(name).ok()
    }

    fn is_switch(self) -> bool {
        matches!(self, Self::ALLOW_HTTP | Self::SkipSignature)
    }

    fn is_endpoint(self) -> bool {
        matches!(self, Self::BaseUrl)
    }

    fn is_service(self) -> bool {
        false
    }

    fn is_document(self) -> bool {
        matches!(self, Self::ServiceAccountKey)
    }
}

/// The settings of Google Cloud Storage from `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT_KEY` and others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GcsSettings {
    variables: Variables<GoogleConfigKey>,
    /// The user's folder, in which the client looks for credentials.
    home: Option<PathBuf>,
}

impl GcsSettings {
    pub(super) fn from_vars(vars: &[(String, String)]) -> Self {
        let home = vars.iter().find(|(name, _)| name == "HOME").map(|(_, value)| PathBuf::from(value));
        Self { variables: Variables::from_vars(vars), home }
    }

    /// Returns whether a variable names a proxy for this store.
    pub(super) fn has_proxy(&self) -> bool {
        self.variables.has_proxy()
    }

    /// Checks all values, and opens a client of the store at `url` with `open`, which sends no request.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do; [`Error::Unusable`] if none can be named.
    pub(super) fn open<T>(
        &self,
        url: &str,
        certificates: Option<&str>,
        open: impl Fn(GoogleCloudStorageBuilder) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        self.check()?;
        self.variables.open(url, certificates, |variables| {
            let builder = GoogleCloudStorageBuilder::new();
            open(variables.apply(builder, |builder, key, value| builder.with_config(key, value)))
        })
    }

    /// Returns the URL of the server, if a variable sets it.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.variables.endpoint()
    }

    /// Checks all values.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    fn check(&self) -> Result<(), Error> {
        self.variables.check()?;
        self.check_credentials()
    }

    /// Checks that there are credentials. Without any, the client asks the metadata service of one of Google's machines,
    /// which elsewhere ends in a timeout that does not say what is missing.
    fn check_credentials(&self) -> Result<(), Error> {
        use GoogleConfigKey as Key;
        let has = |key: Key| self.variables.has(key);
        if has(Key::ServiceAccount) && has(Key::ServiceAccountKey) {
            return Err(refused("GOOGLE_SERVICE_ACCOUNT_KEY", "is set, and so is GOOGLE_SERVICE_ACCOUNT; unset one"));
        }
        self.variables.check_file(Key::ServiceAccount)?;
        self.variables.check_file(Key::ApplicationCredentials)?;
        let has_some = has(Key::ServiceAccount)
            || has(Key::ServiceAccountKey)
            || has(Key::ApplicationCredentials)
            || has(Key::BearerToken)
            || self.variables.is_on(Key::SkipSignature)
            || self.home.as_ref().is_some_and(|home| home.join(USER_CREDENTIALS).is_file());
        if has_some || (self.endpoint().is_none() && is_machine_of("google")) {
            return Ok(());
        }
        Err(refused(
            "GOOGLE_APPLICATION_CREDENTIALS",
            "is not set; set it to the path of a file with credentials, or GOOGLE_SKIP_SIGNATURE=true to read a public \
             bucket",
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::variables::owned;
    use super::*;

    fn check(vars: &[(&str, &str)]) -> Result<(), String> {
        GcsSettings::from_vars(&owned(vars)).check().map_err(|error| error.to_string())
    }

    #[test]
    fn unusable_variables_are_refused_by_their_names() {
        let token = ("GOOGLE_BEARER_TOKEN", "very-secret");
        assert_eq!(check(&[token, ("GOOGLE_PROJECT", "\n")]), Ok(()));
        assert_eq!(check(&[("GOOGLE_SERVICE_ACCOUNT_KEY", "{\n}")]), Ok(()));
        for time in ["30s", "2 min", "1m 30s", "500ms", "1day", "0"] {
            assert_eq!(check(&[token, ("GOOGLE_TIMEOUT", time)]), Ok(()), "{time}");
        }
        assert_eq!(check(&[token, ("GOOGLE_BASE_URL", "http://h:1"), ("GOOGLE_ALLOW_HTTP", "true")]), Ok(()));
        for (name, value, word) in [
            ("GOOGLE_BASE_URL", "localhost:4443", "scheme"),
            ("GOOGLE_BASE_URL", "http://localhost:4443", "GOOGLE_ALLOW_HTTP=true"),
            ("GOOGLE_BASE_URL", "https://me:secret@host", "GOOGLE_APPLICATION_CREDENTIALS instead"),
            ("GOOGLE_BASE_URL", "", "empty"),
            ("GOOGLE_SKIP_SIGNATURE", "jes", "true nor false"),
            ("GOOGLE_TIMEOUT", "abc", "no time"),
            ("GOOGLE_SERVICE_ACCOUNT", "no/such/file", "path of a file"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "key.json\n", "line break"),
        ] {
            let error = check(&[token, (name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(word), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let error = check(&[("GOOGLE_BEARER_TOKEN", "very-secret\n")]).unwrap_err();
        assert!(error.contains("GOOGLE_BEARER_TOKEN") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn missing_credentials_are_named_unless_the_user_has_logged_in() {
        let host = ("GOOGLE_BASE_URL", "https://host");
        let home = tempfile::tempdir().unwrap();
        let in_home = [host, ("HOME", home.path().to_str().unwrap())];
        assert!(check(&in_home).unwrap_err().contains("GOOGLE_APPLICATION_CREDENTIALS is not set"));
        std::fs::create_dir_all(home.path().join(USER_CREDENTIALS).parent().unwrap()).unwrap();
        std::fs::write(home.path().join(USER_CREDENTIALS), "{}").unwrap();
        assert_eq!(check(&in_home), Ok(()));
        assert_eq!(check(&[host, ("GOOGLE_SKIP_SIGNATURE", "true")]), Ok(()));
        let both = [("GOOGLE_SERVICE_ACCOUNT", "a"), ("GOOGLE_SERVICE_ACCOUNT_KEY", "b")];
        assert!(check(&both).unwrap_err().contains("unset one"));
    }

    #[test]
    fn values_are_not_printed() {
        let settings = GcsSettings::from_vars(&owned(&[("GOOGLE_SERVICE_ACCOUNT_KEY", "hidden")]));
        let printed = format!("{settings:?}");
        assert!(printed.contains("google_service_account_key") && !printed.contains("hidden"), "{printed}");
    }
}
