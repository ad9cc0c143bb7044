//! The variables of S3.

use std::str::FromStr;

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::variables::{Key, Variables, is_machine_of, refused};
use crate::error::Error;

impl Key for AmazonS3ConfigKey {
    const PREFIX: &'static str = "AWS_";
    const ALLOW_HTTP_NAME: &'static str = "AWS_ALLOW_HTTP";
    const ALLOW_HTTP: Self = Self::Client(ClientConfigKey::AllowHttp);
    const CREDENTIALS: &'static str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

    fn of(name: &str) -> Option<Self> {
        Self::from_str(name).ok()
    }

    fn is_switch(self) -> bool {
        matches!(
            self,
            Self::ALLOW_HTTP
                | Self::SkipSignature
                | Self::VirtualHostedStyleRequest
                | Self::S3Express
                | Self::ImdsV1Fallback
                | Self::UnsignedPayload
                | Self::DisableTagging
                | Self::DisableBulkDelete
                | Self::RequestPayer
        )
    }

    fn is_endpoint(self) -> bool {
        matches!(self, Self::Endpoint | Self::S3Endpoint)
    }

    fn is_document(self) -> bool {
        false
    }
}

/// The settings of S3 from `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct S3Settings(Variables<AmazonS3ConfigKey>);

impl S3Settings {
    pub(super) fn from_vars(vars: &[(String, String)]) -> Self {
        Self(Variables::from_vars(vars))
    }

    pub(super) fn builder(&self) -> AmazonS3Builder {
        self.0.apply(AmazonS3Builder::new(), |builder, key, value| builder.with_config(key, value))
    }

    /// Returns the URL of the server. That of S3 alone comes before that of all services.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.0.get(AmazonS3ConfigKey::S3Endpoint).or_else(|| self.0.get(AmazonS3ConfigKey::Endpoint))
    }

    /// Checks all values.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.0.check()?;
        self.check_credentials()
    }

    /// Checks that there are credentials. Without any, the client asks the metadata service of an EC2 machine, which
    /// elsewhere ends in a timeout that does not say what is missing.
    fn check_credentials(&self) -> Result<(), Error> {
        use AmazonS3ConfigKey as Key;
        let has = |key: Key| self.0.has(key);
        match (has(Key::AccessKeyId), has(Key::SecretAccessKey)) {
            (true, true) => return Ok(()),
            (true, false) => {
                return Err(refused("AWS_SECRET_ACCESS_KEY", "is not set, but AWS_ACCESS_KEY_ID is; set both"));
            }
            (false, true) => {
                return Err(refused("AWS_ACCESS_KEY_ID", "is not set, but AWS_SECRET_ACCESS_KEY is; set both"));
            }
            (false, false) => {}
        }
        // The kinds of credentials and the pairs of settings that the client knows.
        let has_others = self.0.is_on(Key::SkipSignature)
            || (has(Key::WebIdentityTokenFile) && has(Key::RoleArn))
            || has(Key::ContainerCredentialsRelativeUri)
            || (has(Key::ContainerCredentialsFullUri) && has(Key::ContainerAuthorizationTokenFile))
            || has(Key::MetadataEndpoint);
        // The metadata service knows credentials of AWS only, not those of another server.
        let is_elsewhere = [Key::Endpoint, Key::S3Endpoint]
            .iter()
            .any(|key| self.0.get(*key).is_some_and(|url| !url.contains(".amazonaws.com")));
        if has_others || (!is_elsewhere && is_machine_of("amazon")) {
            return Ok(());
        }
        Err(refused(
            "AWS_ACCESS_KEY_ID",
            "is not set; set it and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::variables::owned;
    use super::*;

    #[test]
    fn known_variables_become_settings_and_their_values_are_not_printed() {
        let vars = [("AWS_REGION", "eu-1"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_UNKNOWN", "x"), ("HOME", "/")];
        let settings = S3Settings::from_vars(&owned(&vars));
        let builder = settings.builder();
        assert_eq!(builder.get_config_value(&AmazonS3ConfigKey::Region).as_deref(), Some("eu-1"));
        let printed = format!("{settings:?}");
        assert!(printed.contains("region") && !printed.contains("hidden"), "{printed}");
        assert_eq!(printed.matches("aws_").count(), 2, "{printed}");
    }

    /// Checks the settings of a usual server with one variable changed.
    fn check(name: &str, value: Option<&str>) -> Result<(), String> {
        let usual = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ];
        let others = usual.into_iter().filter(|(other, _)| *other != name);
        let vars: Vec<(&str, &str)> = others.chain(value.map(|value| (name, value))).collect();
        S3Settings::from_vars(&owned(&vars)).check().map_err(|error| error.to_string())
    }

    #[test]
    fn unusable_variables_are_refused_by_their_names() {
        assert_eq!(check("AWS_REGION", Some("eu-1")), Ok(()));
        assert_eq!(check("AWS_ENDPOINT_URL", Some("https://[::1]:9000")), Ok(()));
        assert_eq!(check("AWS_SESSION_TOKEN", Some("")), Ok(()));
        assert_eq!(check("AWS_ALLOW_HTTP", Some("1")), Ok(()));
        assert_eq!(check("AWS_PROXY_CA_CERTIFICATE", Some("-----BEGIN\nabc\n")), Ok(()));
        for (name, value, word) in [
            ("AWS_ENDPOINT_URL", "localhost:9000", "scheme"),
            ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "scheme"),
            ("AWS_ENDPOINT_URL", "ftp://host", "scheme"),
            ("AWS_ENDPOINT_URL", "http://", "not a URL"),
            ("AWS_ENDPOINT_URL", "http://me:secret@host", "password"),
            ("AWS_ENDPOINT_URL_S3", "host", "scheme"),
            ("AWS_ENDPOINT_URL", "", "empty"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9\n", "line break"),
            ("AWS_ACCESS_KEY_ID", "t\n", "line break"),
            ("AWS_REGION", "us-east-1\r", "line break"),
            ("AWS_SESSION_TOKEN", "t\u{1}", "control"),
            ("AWS_SECRET_ACCESS_KEY", "very-secret ", "space"),
            ("AWS_ALLOW_HTTP", "jes", "true nor false"),
        ] {
            let error = check(name, Some(value)).expect_err(value);
            assert!(error.contains(name) && error.contains(word), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(check("AWS_ALLOW_HTTP", None).is_err_and(|error| error.contains("AWS_ALLOW_HTTP")));
        assert!(check("AWS_ALLOW_HTTP", Some("false")).is_err_and(|error| error.contains("AWS_ALLOW_HTTP")));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            assert!(check(name, None).is_err_and(|error| error.contains(name)));
        }
    }

    #[test]
    fn missing_credentials_are_named_unless_another_kind_is_given() {
        let with = |vars: &[(&str, &str)]| {
            S3Settings::from_vars(&owned(&[vars, &[("AWS_ENDPOINT_URL", "https://host")]].concat())).check()
        };
        assert!(with(&[]).is_err_and(|error| error.to_string().contains("AWS_ACCESS_KEY_ID is not set")));
        for (other, partner) in [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        ] {
            assert!(with(&[(other, "x")]).is_err(), "{other} without {partner}");
            assert_eq!(with(&[(other, "x"), (partner, "y")]), Ok(()), "{other}");
        }
        for alone in ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_METADATA_ENDPOINT"] {
            assert_eq!(with(&[(alone, "x")]), Ok(()), "{alone}");
        }
        assert_eq!(with(&[("AWS_SKIP_SIGNATURE", "1")]), Ok(()));
    }
}
