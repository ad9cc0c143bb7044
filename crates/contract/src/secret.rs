//! Which values are secrets, and how they are shown.

/// A variable whose name contains one of these, in any case, is a secret.
const PARTS: [&str; 11] = [
    "AUTH",
    "CONNECTION_STRING",
    "CREDENTIAL",
    "KEY",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE",
    "SECRET",
    "SIGNATURE",
    "TOKEN",
];

/// What is shown instead.
pub(crate) const SHOWN: &str = "(secret, not shown)";

/// Shorter paths of URLs are no secrets, and may be a part of any word.
const SHORTEST_PATH: usize = 4;

/// Returns whether the variable of this name is a secret. A parameter `sig` in a URL of Azure is its signature, and the
/// field `launch.notify` may hold the URL of a webhook.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    // Whether requests are signed is no secret, and is a part of an advice.
    if name.ends_with("SKIP_SIGNATURE") {
        return false;
    }
    name == "SIG" || name == "NOTIFY" || name.contains("WEBHOOK") || PARTS.iter().any(|part| name.contains(part))
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

/// Returns an argument of a command as it may be shown. After the first secret in `NAME=value`, nothing is shown, because
/// values have many separators.
#[must_use]
pub fn masked_argument(argument: &str) -> String {
    match secret_value(argument) {
        Some(start) => format!("{}{SHOWN}", masked_urls(&argument[..start])),
        None => masked_urls(argument),
    }
}

/// Returns a text, such as a message, as it may be shown: without the users and passwords of its URLs and without the
/// values of secrets in `NAME=value`. A value ends at a space, at `&` or `;`, or at its closing quote.
#[must_use]
pub fn masked_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = secret_value(rest) {
        let value = &rest[start..];
        let quote = value.chars().next().filter(|letter| matches!(letter, '"' | '\''));
        let end = match quote {
            Some(quote) => value[1..].find(quote).map(|length| length + 2),
            None => value.find(|letter: char| letter.is_whitespace() || matches!(letter, '&' | ';')),
        };
        shown += &rest[..start];
        shown += SHOWN;
        rest = &value[end.unwrap_or(value.len())..];
    }
    masked_urls(&(shown + rest))
}

/// Returns where the first value of a secret begins: after `NAME=`, if the value is not empty.
fn secret_value(text: &str) -> Option<usize> {
    text.match_indices('=').map(|(place, _)| place).find_map(|place| {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
        let start = text[..place]
            .rfind(|letter| !is_name(letter))
            .map_or(0, |before| before + text[before..].chars().next().map_or(1, char::len_utf8));
        let value = &text[place + 1..];
        let is_empty = value.is_empty() || value.starts_with(char::is_whitespace) || value.starts_with(SHOWN);
        (is_secret(&text[start..place]) && !is_empty).then_some(place + 1)
    })
}

/// Returns what a command `said` as it may be shown: as [`masked_text`], of URLs only the hosts, and nothing of the paths of
/// the URLs in its own words. Some programs name a path without its host, after `url:`.
#[must_use]
pub fn masked_output(command: &[String], said: &str) -> String {
    let mut shown = map_urls(said, "://", masked_webhook);
    for word in command {
        map_urls(word, "://", |url| {
            let path = url.find(['/', '?', '#']).map_or("", |start| url[start..].trim_matches('/'));
            let without_query = path.split('?').next().unwrap_or_default();
            for part in [path, without_query].into_iter().filter(|part| part.len() >= SHORTEST_PATH) {
                shown = shown.replace(part, SHOWN);
            }
            String::new()
        });
    }
    let mut rest = std::mem::take(&mut shown);
    while let Some(start) = rest.to_ascii_lowercase().find("url: ").map(|place| place + "url: ".len()) {
        let word = rest[start..].find(char::is_whitespace).unwrap_or(rest.len() - start);
        let hides = rest[start..start + word].starts_with('/');
        shown += &rest[..start];
        shown += if hides { SHOWN } else { &rest[start..start + word] };
        rest = rest.split_off(start + word);
    }
    masked_text(&(shown + &rest))
}

/// Returns a text without the users and passwords of its URLs.
fn masked_urls(text: &str) -> String {
    let shown = map_urls(text, "://", |url| match url.rfind('@') {
        Some(at) => format!("{SHOWN}{}", &url[at..]),
        None => url.to_owned(),
    });
    // As a part of a path, a URL has lost one of its slashes: /runs/s3:/user:password@bucket.
    map_urls(&shown, ":/", |url| match url.rfind('@') {
        Some(at) if url[..at].contains(':') && !url[..at].contains('/') => format!("{SHOWN}{}", &url[at..]),
        _ => url.to_owned(),
    })
}

/// Replaces what follows the `separator` after the scheme of each URL in a text.
fn map_urls(text: &str, separator: &str, mut change: impl FnMut(&str) -> String) -> String {
    let mut changed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(separator).map(|place| place + separator.len()) {
        let is_end = |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '`' | '<' | '>');
        let end = rest[start..].find(is_end).map_or(rest.len(), |length| start + length);
        changed += &rest[..start];
        changed += &change(&rest[start..end]);
        rest = &rest[end..];
    }
    changed + rest
}

/// Returns the URL of a webhook as it may be shown: only its scheme and host. Its path and query are its secret.
#[must_use]
pub fn masked_webhook(url: &str) -> String {
    let start = url.find("://").map_or(0, |place| place + 3);
    let authority = url[start..].find(['/', '?', '#']).map_or(url.len(), |length| start + length);
    let host = url[start..authority].rfind('@').map_or(start, |at| start + at + 1);
    let rest = url[authority..].trim_start_matches('/');
    let (hidden_user, hidden_rest) = (host > start, !rest.is_empty());
    let user = if hidden_user { format!("{SHOWN}@") } else { String::new() };
    let path = if hidden_rest { format!("/{SHOWN}") } else { String::new() };
    format!("{}{user}{}{path}", &url[..start], &url[host..authority])
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
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_STORAGE_SAS_TOKEN",
            "GOOGLE_BEARER_TOKEN",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "WANDB_API_KEY",
            "x_auth",
            "KEY_PASSPHRASE",
            "db_password",
            "HF_TOKEN",
            "MY_KEY",
        ] {
            assert_eq!(masked(name, "hush"), "(secret, not shown)", "{name}");
        }
        assert_eq!(masked("OMP_NUM_THREADS", "4"), "4");
    }

    #[test]
    fn messages_are_shown_without_secrets() {
        for (text, shown) in [
            (
                "no answer from http://me:hush@host:1/x (timeout)",
                "no answer from http://(secret, not shown)@host:1/x (timeout)",
            ),
            ("set AWS_SKIP_SIGNATURE=true", "set AWS_SKIP_SIGNATURE=true"),
            ("HF_TOKEN=hush A=b", "HF_TOKEN=(secret, not shown) A=b"),
            ("DB_PASSWORD=hu,sh;A=b", "DB_PASSWORD=(secret, not shown);A=b"),
            ("HF_TOKEN=\"hu sh\", A=b", "HF_TOKEN=(secret, not shown), A=b"),
            ("s3://me:hu,sh@bucket/a", "s3://(secret, not shown)@bucket/a"),
            (
                "GET http://host/b?uploads&X-Amz-Signature=hush&X-Amz-Date=1",
                "GET http://host/b?uploads&X-Amz-Signature=(secret, not shown)&X-Amz-Date=1",
            ),
            ("PUT http://host/c/a?sv=2023&sig=hush&sp=rw", "PUT http://host/c/a?sv=2023&sig=(secret, not shown)&sp=rw"),
            ("no file /runs/s3:/me:hush@b/x.yaml", "no file /runs/s3:/(secret, not shown)@b/x.yaml"),
            ("PATH=/opt/a:/opt/b@1.0", "PATH=/opt/a:/opt/b@1.0"),
            ("mail me@example.org: step=3, \"a/b@1\"", "mail me@example.org: step=3, \"a/b@1\""),
            ("é=x keys= MY_PRIVATE_PEM=hush", "é=x keys= MY_PRIVATE_PEM=(secret, not shown)"),
            ("", ""),
        ] {
            assert_eq!(masked_text(text), shown);
            assert!(!masked_text(text).contains("hush"), "{text}");
        }
    }

    #[test]
    fn a_webhook_is_shown_by_its_host() {
        for (url, shown) in [
            ("https://hooks.example.org/services/hush", "https://hooks.example.org/(secret, not shown)"),
            ("https://hooks.example.org?hush", "https://hooks.example.org/(secret, not shown)"),
            ("http://me:hush@host:80/", "http://(secret, not shown)@host:80"),
            ("http://host:80", "http://host:80"),
            ("host/hush", "host/(secret, not shown)"),
        ] {
            assert_eq!(masked_webhook(url), shown);
            assert_eq!(masked_webhook(shown), shown, "once more");
        }
    }

    #[test]
    fn what_a_command_says_has_no_path_of_a_webhook() {
        let script = "curl -d @- 'https://hooks.example.org/T0/hush?x=1' || wget http://me:hush@other/x";
        let command = ["sh", "-c", script].map(str::to_owned);
        for (said, shown) in [
            ("no route to https://a.org/x/hush now", "no route to https://a.org/(secret, not shown) now"),
            ("at https://hooks.example.org/T0/hush?x=1!", "at https://hooks.example.org/(secret, not shown)"),
            ("HTTP://a.org/hush", "HTTP://a.org/(secret, not shown)"),
            ("POST /T0/hush: 404", "POST /(secret, not shown): 404"),
            ("GET /T0/hush?x=1: exit 4", "GET /(secret, not shown): exit 4"),
            (
                "port=443): Max retries exceeded with url: /hush (x)",
                "port=443): Max retries exceeded with url: (secret, not shown) (x)",
            ),
            ("Requested URL: none; url: ", "Requested URL: none; url: "),
            ("TOKEN=hush http://me:hush@other", "TOKEN=(secret, not shown) http://(secret, not shown)@other"),
            ("/usr/local/bin/page: not found", "/usr/local/bin/page: not found"),
        ] {
            assert_eq!(masked_output(&command, said), shown);
        }
    }

    #[test]
    fn arguments_are_shown_without_secrets() {
        for (argument, shown) in [
            ("launch.notify=https://hooks.example.org/hush", "launch.notify=(secret, not shown)"),
            ("HF_TOKEN=hu,sh;A=b c", "HF_TOKEN=(secret, not shown)"),
            ("A=1;HF_TOKEN=hush", "A=1;HF_TOKEN=(secret, not shown)"),
            ("--export=HF_TOKEN=hush", "--export=HF_TOKEN=(secret, not shown)"),
            ("checkpoint.url=s3://me:hush@b/x", "checkpoint.url=s3://(secret, not shown)@b/x"),
            ("training.steps=5", "training.steps=5"),
        ] {
            assert_eq!(masked_argument(argument), shown);
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
