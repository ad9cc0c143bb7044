//! Which values are secrets, and how they are shown.

/// A variable whose name contains one of these, in any case, is a secret.
const PARTS: [&str; 8] = ["AUTH", "CREDENTIAL", "KEY", "PASSPHRASE", "PASSWD", "PASSWORD", "SECRET", "TOKEN"];

/// Parameters of signed URLs of S3 that grant access or name an account.
const PARAMETERS: [&str; 3] = ["X-Amz-Credential=", "X-Amz-Security-Token=", "X-Amz-Signature="];

/// What is shown instead.
const SHOWN: &str = "(secret, not shown)";

/// Returns whether the variable of this name is a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    PARTS.iter().any(|part| name.contains(part))
}

/// Returns the value of a variable as it may be shown. Secrets, and the user and password in a URL, are replaced.
#[must_use]
pub fn masked(name: &str, value: &str) -> String {
    if is_secret(name) {
        return SHOWN.to_owned();
    }
    match user_part(value) {
        Some((start, end)) => format!("{}{SHOWN}{}", &value[..start], &value[end..]),
        None => value.to_owned(),
    }
}

/// Returns a text, such as a message or a command, as it may be shown: without the users and passwords of its URLs, the
/// secret parameters of signed URLs, and the values of secret variables in words of the form `NAME=value`.
#[must_use]
pub fn masked_text(text: &str) -> String {
    let is_end =
        |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '`' | '<' | '>' | '(' | ')' | ',');
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(is_end).unwrap_or(rest.len());
        shown += &masked_word(&rest[..word]);
        let after = rest[word..].chars().next().map_or(word, |letter| word + letter.len_utf8());
        shown += &rest[word..after];
        rest = &rest[after..];
    }
    shown
}

fn masked_word(word: &str) -> String {
    if let Some((name, value)) = word.split_once('=')
        && !value.is_empty()
        && !name.contains("://")
        && is_secret(name)
    {
        return format!("{name}={SHOWN}");
    }
    let mut word = match word.contains("://").then(|| user_part(word)).flatten() {
        Some((start, end)) => format!("{}{SHOWN}{}", &word[..start], &word[end..]),
        None => word.to_owned(),
    };
    for parameter in PARAMETERS {
        if let Some(start) = word.find(parameter).map(|place| place + parameter.len()) {
            let end = word[start..].find('&').map_or(word.len(), |length| start + length);
            word.replace_range(start..end, SHOWN);
        }
    }
    word
}

/// Returns whether a URL in the value holds a user's name or password.
#[must_use]
pub fn has_user(value: &str) -> bool {
    user_part(value).is_some()
}

/// Returns the byte range of the user and password in `scheme://user:password@host` or `user:password@host`. A password
/// may contain any character, so the range ends at the last `@`.
fn user_part(value: &str) -> Option<(usize, usize)> {
    let end = value.rfind('@')?;
    let (start, has_scheme) = value[..end].find("://").map_or((0, false), |scheme| (scheme + 3, true));
    let user = &value[start..end];
    // Without a scheme, a path may contain both characters as well: /opt/a:/opt/b@1.0.
    (has_scheme || user.contains(':') && !user.contains('/')).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in
            ["AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "x_auth", "KEY_PASSPHRASE", "db_password", "HF_TOKEN", "MY_KEY"]
        {
            assert_eq!(masked(name, "hush"), "(secret, not shown)", "{name}");
        }
        assert_eq!(masked("OMP_NUM_THREADS", "4"), "4");
    }

    #[test]
    fn messages_and_commands_are_shown_without_secrets() {
        for (text, shown) in [
            (
                "no answer from http://me:hush@host:1/x (timeout)",
                "no answer from http://(secret, not shown)@host:1/x (timeout)",
            ),
            ("mpirun -x HF_TOKEN=hush -x A=b", "mpirun -x HF_TOKEN=(secret, not shown) -x A=b"),
            ("s3://me:hush@bucket/a", "s3://(secret, not shown)@bucket/a"),
            (
                "GET http://host/b?uploads&X-Amz-Security-Token=hush&X-Amz-Date=1",
                "GET http://host/b?uploads&X-Amz-Security-Token=(secret, not shown)&X-Amz-Date=1",
            ),
            ("mail me@example.org: step=3, \"a/b@1\"", "mail me@example.org: step=3, \"a/b@1\""),
            ("keys=", "keys="),
            ("", ""),
        ] {
            assert_eq!(masked_text(text), shown);
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        for (value, shown) in [
            ("http://me:hush@proxy:1/x", "http://(secret, not shown)@proxy:1/x"),
            ("http://me:hu/s@h@proxy:1", "http://(secret, not shown)@proxy:1"),
            ("http://hush@proxy", "http://(secret, not shown)@proxy"),
            ("me:hush@proxy:1", "(secret, not shown)@proxy:1"),
            ("http://a:hush@x,http://b:hush@y", "http://(secret, not shown)@y"),
            ("http://proxy:1/x", "http://proxy:1/x"),
            ("me@example.org", "me@example.org"),
            ("/opt/a:/opt/b@1.0/lib", "/opt/a:/opt/b@1.0/lib"),
        ] {
            assert_eq!(masked("HTTPS_PROXY", value), shown);
            assert_eq!(has_user(value), value != shown);
        }
    }
}
