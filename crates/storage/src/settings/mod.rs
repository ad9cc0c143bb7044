//! The settings of object stores, from environment variables.

mod azure;
mod gcs;
mod proxies;
mod s3;
mod variables;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;

use crate::error::Error;
use crate::tls::choose_cryptography;
use azure::AzureSettings;
use gcs::GcsSettings;
use proxies::Proxies;
use s3::S3Settings;
use variables::CERTIFICATES;

/// Regions, accounts, credentials and endpoints of object stores, from the environment variables that start with `AWS_`
/// (S3), `GOOGLE_` (Google Cloud Storage) and `AZURE_` (Azure Blob Storage).
///
/// Printing it shows the names of the settings without their values, some of which are secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudSettings {
    s3: S3Settings,
    gcs: GcsSettings,
    azure: AzureSettings,
    proxies: Proxies,
    /// The variable that names the certificates which the clients trust, if one is set.
    certificates: Option<&'static str>,
}

impl CloudSettings {
    /// Takes the settings from environment variables. Unknown variables are ignored.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let vars: Vec<(String, String)> = vars.into_iter().collect();
        Self {
            s3: S3Settings::from_vars(&vars),
            gcs: GcsSettings::from_vars(&vars),
            azure: AzureSettings::from_vars(&vars),
            proxies: Proxies::from_vars(&vars),
            certificates: CERTIFICATES.into_iter().find(|name| vars.iter().any(|(known, _)| known == name)),
        }
    }

    /// Opens a client of S3 for the store at `url` with `open`, which sends no request, after all variables of S3 are
    /// checked.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do; [`Error::Unusable`] if the client cannot be opened, and no
    /// variable is the cause.
    pub(crate) fn s3<T>(
        &self,
        url: &str,
        open: impl Fn(AmazonS3Builder) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        self.check_proxies(self.s3.has_proxy())?;
        choose_cryptography();
        self.s3.open(url, self.certificates, open)
    }

    /// Does the same for Google Cloud Storage.
    ///
    /// # Errors
    /// As [`s3`](Self::s3).
    pub(crate) fn gcs<T>(
        &self,
        url: &str,
        open: impl Fn(GoogleCloudStorageBuilder) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        self.check_proxies(self.gcs.has_proxy())?;
        choose_cryptography();
        self.gcs.open(url, self.certificates, open)
    }

    /// Does the same for Azure Blob Storage.
    ///
    /// # Errors
    /// As [`s3`](Self::s3).
    pub(crate) fn azure<T>(
        &self,
        url: &str,
        open: impl Fn(MicrosoftAzureBuilder) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        self.check_proxies(self.azure.has_proxy())?;
        choose_cryptography();
        self.azure.open(url, self.certificates, open)
    }

    /// Checks the proxies of the environment, unless the store has its own.
    fn check_proxies(&self, has_own: bool) -> Result<(), Error> {
        if has_own { Ok(()) } else { self.proxies.check() }
    }

    /// Returns the URL of the S3 server, if a variable sets it.
    pub(crate) fn s3_endpoint(&self) -> Option<&str> {
        self.s3.endpoint()
    }

    /// Returns the URL of the server of Google Cloud Storage, if a variable sets it.
    pub(crate) fn gcs_endpoint(&self) -> Option<&str> {
        self.gcs.endpoint()
    }

    /// Returns the URL or the storage account that tells which container of this name is meant.
    pub(crate) fn azure_account(&self) -> Option<&str> {
        self.azure.account()
    }
}
