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

    fn is_service(self) -> bool {
        matches!(self, Self::MetadataEndpoint | Self::StsEndpoint | Self::ContainerCredentialsFullUri)
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
        open: impl Fn(AmazonS3Builder) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        self.check()?;
        self.0.open(url, certificates, |variables| open(builder(variables)))
    }

    /// Returns the URL of the server. That of S3 alone comes before that of all services.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.0.get(AmazonS3ConfigKey::S3Endpoint).or_else(|| self.0.get(AmazonS3ConfigKey::Endpoint))
    }

    /// Checks all values.
    ///
    /// # Errors
    /// [`Error::Variable`] with the variable and what to do.
    fn check(&self) -> Result<(), Error> {
        self.0.check()?;
        let is_region = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        for (key, name) in
            [(AmazonS3ConfigKey::Region, "AWS_REGION"), (AmazonS3ConfigKey::DefaultRegion, "AWS_DEFAULT_REGION")]
        {
            if self.0.get(key).is_some_and(|region| !is_region(region)) {
                return Err(refused(name, "is no name of a region, such as us-east-1"));
            }
        }
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
        if has(Key::WebIdentityTokenFile) && has(Key::RoleArn) {
            self.0.check_file(Key::WebIdentityTokenFile)?;
        } else if has(Key::ContainerCredentialsFullUri) {
            self.0.check_file(Key::ContainerAuthorizationTokenFile)?;
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

fn builder(variables: &Variables<AmazonS3ConfigKey>) -> AmazonS3Builder {
    variables.apply(AmazonS3Builder::new(), |builder, key, value| builder.with_config(key, value))
}

#[cfg(test)]
mod tests {
    use super::super::variables::owned;
    use super::*;

    #[test]
    fn known_variables_become_settings_and_their_values_are_not_printed() {
        let vars = [("AWS_REGION", "eu-1"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_UNKNOWN", "x"), ("HOME", "/")];
        let settings = S3Settings::from_vars(&owned(&vars));
        let builder = builder(&settings.0);
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
            // The client would leave the bucket out of the request.
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9/?x=1", "query"),
            ("AWS_ENDPOINT_URL", "https://host#f", "fragment"),
            ("AWS_ENDPOINT_URL_STS", "host", "not a URL"),
            ("AWS_METADATA_ENDPOINT", "host:80", "not a URL"),
            ("AWS_REGION", "a/b?c#d", "name of a region"),
            ("AWS_DEFAULT_REGION", "us east", "name of a region"),
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
        let file = tempfile::NamedTempFile::new().expect("a file");
        let token = file.path().to_str().expect("UTF-8");
        for (file, partner, value) in [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "y"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://host/y"),
        ] {
            assert!(with(&[(file, token)]).is_err(), "{file} without {partner}");
            assert_eq!(with(&[(file, token), (partner, value)]), Ok(()), "{file}");
            let error = with(&[(file, "/no/such/file"), (partner, value)]);
            assert!(error.is_err_and(|error| error.to_string().contains(&format!("{file} is not the path"))));
        }
        for (alone, value) in
            [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x"), ("AWS_METADATA_ENDPOINT", "http://host")]
        {
            assert_eq!(with(&[(alone, value)]), Ok(()), "{alone}");
        }
        assert_eq!(with(&[("AWS_SKIP_SIGNATURE", "1")]), Ok(()));
    }
}
