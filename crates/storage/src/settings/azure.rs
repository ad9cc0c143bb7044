//! The variables of Azure Blob Storage.

use std::str::FromStr;

use object_store::ClientConfigKey;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::variables::{Key, Variables, is_machine_of, refused};
use crate::error::Error;

impl Key for AzureConfigKey {
    const PREFIX: &'static str = "AZURE_";
    const ALLOW_HTTP_NAME: &'static str = "AZURE_ALLOW_HTTP";
    const ALLOW_HTTP: Self = Self::Client(ClientConfigKey::AllowHttp);
    const CREDENTIALS: &'static str = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY";

    fn of(name: &str) -> Option<Self> {
        match name {
            // The names that Azure's own command line reads.
            "azure_storage_account" => Some(Self::AccountName),
            "azure_storage_key" => Some(Self::AccessKey),
            // The client would read the emulator's address from another variable.
            "azure_storage_use_emulator" => None,
            name => Self::from_str(name).ok(),
        }
    }

    fn is_switch(self) -> bool {
        matches!(
            self,
            Self::ALLOW_HTTP | Self::UseFabricEndpoint | Self::UseAzureCli | Self::SkipSignature | Self::DisableTagging
        )
    }

    fn is_endpoint(self) -> bool {
        matches!(self, Self::Endpoint)
    }

    fn is_service(self) -> bool {
        matches!(self, Self::MsiEndpoint | Self::AuthorityHost)
    }

    fn is_document(self) -> bool {
        false
    }
}

/// The settings of Azure Blob Storage from `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY` and others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AzureSettings(Variables<AzureConfigKey>);

impl AzureSettings {
    pub(super) fn from_vars(vars: &[(String, String)]) -> Self {
        Self(Variables::from_vars(vars))
    }

    /// Returns whether a variable names a proxy for this store.
    pub(super) fn has_proxy(&self) -> bool {
        self.0.has_proxy()
    }

    /// Checks all values, and opens a client of the store at `url` with `open`, which sends no request.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do; [`Error::Unusable`] if none can be named.
    pub(super) fn open<T>(
        &self,
        url: &str,
        certificates: Option<&str>,
        open: impl Fn(MicrosoftAzureBuilder) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        self.check()?;
        self.0.open(url, certificates, |variables| {
            let builder = MicrosoftAzureBuilder::new();
            open(variables.apply(builder, |builder, key, value| builder.with_config(key, value)))
        })
    }

    /// Returns the URL of the server if a variable sets it, otherwise the name of the storage account.
    pub(super) fn account(&self) -> Option<&str> {
        self.0.endpoint().or_else(|| self.0.get(AzureConfigKey::AccountName))
    }

    /// Checks all values.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    fn check(&self) -> Result<(), Error> {
        use AzureConfigKey as Key;
        self.0.check()?;
        let Some(account) = self.0.get(Key::AccountName) else {
            return Err(refused("AZURE_STORAGE_ACCOUNT_NAME", "is not set; set it to the name of the storage account"));
        };
        if !account.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            let reason = "is no name of a storage account: letters, digits and \"-\" can stand in one";
            return Err(refused("AZURE_STORAGE_ACCOUNT_NAME", reason));
        }
        self.check_credentials()
    }

    /// Checks that there are credentials. Without any, the client asks the metadata service of one of Azure's machines,
    /// which elsewhere ends in a timeout that does not say what is missing.
    fn check_credentials(&self) -> Result<(), Error> {
        use AzureConfigKey as Key;
        let has = |key: Key| self.0.has(key);
        if !(has(Key::AccessKey) || has(Key::SasKey) || has(Key::Token)) {
            self.0.check_file(Key::FederatedTokenFile)?;
        }
        let has_some = has(Key::AccessKey)
            || has(Key::SasKey)
            || has(Key::Token)
            || (has(Key::ClientId)
                && has(Key::AuthorityId)
                && (has(Key::ClientSecret) || has(Key::FederatedTokenFile)))
            || has(Key::MsiEndpoint)
            || has(Key::CredentialType)
            || self.0.is_on(Key::UseAzureCli)
            || self.0.is_on(Key::SkipSignature);
        if has_some || (self.0.endpoint().is_none() && is_machine_of("microsoft")) {
            return Ok(());
        }
        Err(refused(
            "AZURE_STORAGE_ACCOUNT_KEY",
            "is not set; set it or AZURE_STORAGE_SAS_TOKEN, AZURE_USE_AZURE_CLI=true after `az login`, or \
             AZURE_SKIP_SIGNATURE=true to read a public container",
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::variables::owned;
    use super::*;

    fn check(vars: &[(&str, &str)]) -> Result<(), String> {
        AzureSettings::from_vars(&owned(vars)).check().map_err(|error| error.to_string())
    }

    const ACCOUNT: (&str, &str) = ("AZURE_STORAGE_ACCOUNT_NAME", "account");
    const KEY: (&str, &str) = ("AZURE_STORAGE_ACCOUNT_KEY", "very-secret");

    #[test]
    fn unusable_variables_are_refused_by_their_names() {
        assert_eq!(check(&[ACCOUNT, KEY]), Ok(()));
        assert_eq!(check(&[("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_KEY", "b")]), Ok(()));
        let plain = [("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/account"), ("AZURE_ALLOW_HTTP", "true")];
        assert_eq!(check(&[ACCOUNT, KEY, plain[0], plain[1]]), Ok(()));
        for (name, value, word) in [
            ("AZURE_STORAGE_ENDPOINT", "localhost:10000", "scheme"),
            ("AZURE_STORAGE_ENDPOINT", "http://localhost:10000", "AZURE_ALLOW_HTTP=true"),
            ("AZURE_STORAGE_ENDPOINT", "https://me:secret@host", "AZURE_STORAGE_ACCOUNT_KEY instead"),
            ("AZURE_STORAGE_ENDPOINT", "", "empty"),
            ("AZURE_STORAGE_ENDPOINT", "https://host/?sv=1", "query"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "a b/../c", "name of a storage account"),
            ("AZURE_MSI_ENDPOINT", "host", "not a URL"),
            ("AZURE_USE_AZURE_CLI", "jes", "true nor false"),
            ("AZURE_TIMEOUT", "abc", "no time"),
            ("AZURE_CONNECT_TIMEOUT", "-5", "no time"),
            ("AZURE_STORAGE_SAS_TOKEN", "secret\n", "line break"),
        ] {
            let account = [ACCOUNT].into_iter().filter(|(other, _)| *other != name);
            let vars: Vec<_> = account.chain([KEY, (name, value)]).collect();
            let error = check(&vars).unwrap_err();
            assert!(error.contains(name) && error.contains(word), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_missing_account_and_missing_credentials_are_named() {
        assert!(check(&[KEY]).unwrap_err().contains("AZURE_STORAGE_ACCOUNT_NAME is not set"));
        let host = ("AZURE_STORAGE_ENDPOINT", "https://host");
        assert!(check(&[ACCOUNT, host]).unwrap_err().contains("AZURE_STORAGE_ACCOUNT_KEY is not set"));
        let identity = [ACCOUNT, host, ("AZURE_CLIENT_ID", "a"), ("AZURE_TENANT_ID", "b")];
        assert!(check(&identity).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = [("AZURE_FEDERATED_TOKEN_FILE", file.path().to_str().unwrap())];
        assert_eq!(check(&[&identity[..], &token].concat()), Ok(()));
        let error = check(&[&identity[..], &[("AZURE_FEDERATED_TOKEN_FILE", "/no/such/file")]].concat()).unwrap_err();
        assert!(error.contains("AZURE_FEDERATED_TOKEN_FILE is not the path of a file"), "{error}");
        assert_eq!(check(&[&identity[..], &[("AZURE_CLIENT_SECRET", "c")]].concat()), Ok(()));
        for alone in ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN", "AZURE_USE_AZURE_CLI", "AZURE_SKIP_SIGNATURE"] {
            assert_eq!(check(&[ACCOUNT, host, (alone, "true")]), Ok(()), "{alone}");
        }
    }

    #[test]
    fn values_are_not_printed() {
        let settings = AzureSettings::from_vars(&owned(&[("AZURE_STORAGE_SAS_TOKEN", "hidden")]));
        let printed = format!("{settings:?}");
        assert!(printed.contains("azure_storage_sas_key") && !printed.contains("hidden"), "{printed}");
    }
}
