//! The settings of object stores, from environment variables.

mod azure;
mod gcs;
mod s3;
mod variables;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;

use crate::error::Error;
use azure::AzureSettings;
use gcs::GcsSettings;
use s3::S3Settings;

/// Regions, accounts, credentials and endpoints of object stores, from the environment variables that start with `AWS_`
/// (S3), `GOOGLE_` (Google Cloud Storage) and `AZURE_` (Azure Blob Storage).
///
/// Printing it shows the names of the settings without their values, some of which are secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudSettings {
    s3: S3Settings,
    gcs: GcsSettings,
    azure: AzureSettings,
}

impl CloudSettings {
    /// Takes the settings from environment variables. Unknown variables are ignored.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let vars: Vec<(String, String)> = vars.into_iter().collect();
        Self {
            s3: S3Settings::from_vars(&vars),
            gcs: GcsSettings::from_vars(&vars),
            azure: AzureSettings::from_vars(&vars),
        }
    }

    /// Returns the builder of a client of S3, after all variables of S3 are checked.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    pub(crate) fn s3(&self) -> Result<AmazonS3Builder, Error> {
        self.s3.check()?;
        Ok(self.s3.builder())
    }

    /// Returns the builder of a client of Google Cloud Storage, after all of its variables are checked.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    pub(crate) fn gcs(&self) -> Result<GoogleCloudStorageBuilder, Error> {
        self.gcs.check()?;
        Ok(self.gcs.builder())
    }

    /// Returns the builder of a client of Azure Blob Storage, after all of its variables are checked.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    pub(crate) fn azure(&self) -> Result<MicrosoftAzureBuilder, Error> {
        self.azure.check()?;
        Ok(self.azure.builder())
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
